"""Samples to one file."""

from __future__ import annotations

from pathlib import Path

from metalm.client import MetaLMClient
from metalm.files.base import Content, batches_of
from metalm.files.disk import is_special, naming, opened
from metalm.files.formats import codec_named
from metalm.files.progress import passing, progress
from metalm_proto.errors import InvalidArgument
from metalm_proto.spec import BatchRequest


def write(client: MetaLMClient, request: BatchRequest, output: str | None, form: str) -> None:
    """Writes the request's samples to the file `output`, or to standard output for None and "-".

    A file appears under its name when it is complete; until then, and if anything goes wrong, what
    was there before stays. On a terminal a progress bar is shown. Raises OSError, InvalidArgument
    for what the format `form` cannot hold, ModuleNotFoundError for what it needs, and any
    MetaLMError that the client raises.
    """
    codec = codec_named(form)
    codec.check(request.spec)
    standard = output is None or output == "-"
    directory = None if output is None or standard or is_special(output) else Path(output).parent
    with naming("standard output" if standard else output), opened(output) as stream:
        to_terminal = stream.isatty()
        if to_terminal and codec.BINARY:
            raise InvalidArgument("output", output or "-", f"a file or a pipe for {form}")
        with (
            Content(directory) as content,
            batches_of(client, request) as batches,
            progress(request.samples, request.spec.L, "write", not to_terminal) as advance,
        ):
            passed = passing(batches, advance)
            codec.write(
                content.watch(passed) if codec.DIGESTED else passed, request, stream, content
            )
            stream.flush()
