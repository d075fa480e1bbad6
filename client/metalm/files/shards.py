"""Samples to a directory of shards with a manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from metalm.client import MetaLMClient
from metalm.files.base import Content, batches_of
from metalm.files.disk import naming, replacing
from metalm.files.formats import codec_named
from metalm.files.journal import claimed
from metalm.files.manifest import MANIFEST, Run, Shard, manifest_text
from metalm.files.progress import passing, progress
from metalm_proto.spec import BatchRequest


def write_shards(client: MetaLMClient, run: Run, directory: Path) -> None:
    """Writes the shards of a run and, when all are there, their manifest.

    Killed at any moment, it goes on where it was when it is called again: shards whose bytes are
    still what they were are kept, and the bytes of all files are in the end those of a run that was
    not disturbed. A shard appears under its name when it is complete and on the disk. On a terminal
    progress bars are shown.

    Raises InvalidArgument if the directory holds another run or anything else, OSError, and any
    MetaLMError that the client raises.
    """
    length = run.request.spec.L
    with naming(directory), claimed(run, directory) as journal:
        recorded = [(name, part) for name, part in run.parts() if name in journal.shards]
        finished: set[str] = set()
        with progress(sum(part.samples for _, part in recorded), length, "check") as advance:
            for name, part in recorded:
                if _stands(directory / name, journal.shards[name]):
                    finished.add(name)
                advance(part.samples)
        missing = [(name, part) for name, part in run.parts() if name not in finished]
        with progress(sum(part.samples for _, part in missing), length, "write") as advance:
            for name, part in missing:
                journal.append(_write_shard(client, run.format, part, directory / name, advance))
        shards = [journal.shards[name] for name, _ in run.parts()]
        with replacing(directory / MANIFEST) as stream:
            stream.write(manifest_text(run, shards).encode())
        journal.remove()


def _write_shard(
    client: MetaLMClient,
    form: str,
    part: BatchRequest,
    path: Path,
    advance: Callable[[int], object],
) -> Shard:
    with (
        replacing(path) as stream,
        Content(path.parent) as content,
        batches_of(client, part) as batches,
    ):
        codec_named(form).write(content.watch(passing(batches, advance)), part, stream, content)
        stream.seek(0)
        return Shard(
            file=path.name,
            first=part.start,
            samples=part.samples,
            sha256=hashlib.file_digest(stream, "sha256").hexdigest(),
            bytes=stream.tell(),
            digest=content.hexdigest(),
        )


def _stands(path: Path, shard: Shard) -> bool:
    """Whether a shard is as it was when it was finished."""
    try:
        with open(path, "rb") as stream:
            return (
                hashlib.file_digest(stream, "sha256").hexdigest() == shard.sha256
                and stream.tell() == shard.bytes
            )
    except FileNotFoundError:
        return False
