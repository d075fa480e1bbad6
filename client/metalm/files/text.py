"""MetaGym's text: a line a sample, `x,y` pairs with tabs between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

from metalm.files.base import Content, Difference, Rows
from metalm.files.lines import rows_of_lines
from metalm_proto import formats
from metalm_proto.batch import Batch
from metalm_proto.errors import InvalidArgument
from metalm_proto.spec import BatchRequest, Spec

BINARY = False
DIGESTED = False
LIBRARY: str | None = None

_LONGEST_PAIR = 2 * 11


def check(spec: Spec) -> None:
    """Text holds any sample."""


def write(
    batches: Iterable[Batch], request: BatchRequest, stream: BinaryIO, content: Content
) -> None:
    for batch in batches:
        stream.write(formats.to_text(batch).encode())


def request(stream: BinaryIO) -> BatchRequest:
    raise InvalidArgument("format", "text", "one that says which samples a file holds")


def rows(stream: BinaryIO, request: BatchRequest) -> Iterator[Rows]:
    return rows_of_lines(stream, request, request.spec.L * _LONGEST_PAIR + 1, _parsed)


def _parsed(line: bytes, index: int) -> tuple[Sequence[int], Sequence[int]]:
    try:
        pairs = [tuple(map(int, pair.split(b","))) for pair in line[:-1].split(b"\t")]
        x, y = zip(*pairs, strict=True)
    except ValueError as error:
        raise Difference(f"sample {index} is not pairs x,y with tabs between") from error
    return x, y
