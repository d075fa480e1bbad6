"""What the formats with a line a sample have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from metalm.files.base import Difference, Rows
from metalm_proto.batch import Tokens
from metalm_proto.spec import BatchRequest

Parse = Callable[[bytes, int], tuple[Sequence[Any], Sequence[Any]]]
"""x and y of a line and the index that it should have. Raises Difference or ValueError."""


def rows_of_lines(
    stream: BinaryIO, request: BatchRequest, longest: int, parse: Parse
) -> Iterator[Rows]:
    """The samples of lines that have at most `longest` bytes."""
    for first, size in request.ranges():
        samples: list[tuple[Tokens, Tokens]] = []
        try:
            for index in range(first, first + size):
                x, y = parse(_line(stream, longest, index), index)
                samples.append((_tokens(x, request, index, "x"), _tokens(y, request, index, "y")))
        except (Difference, ValueError) as error:
            # The samples before it may differ too, and come first.
            if samples:
                yield _stacked(samples)
            if isinstance(error, Difference):
                raise
            raise Difference(f"sample {first + len(samples)}: {error}") from error
        yield _stacked(samples)
    if stream.read(1):
        raise Difference(f"there is more after sample {request.stop - 1}, the last")


def _line(stream: BinaryIO, longest: int, index: int) -> bytes:
    line = stream.readline(longest)
    if not line:
        raise Difference(f"sample {index} is missing")
    if not line.endswith(b"\n"):
        raise Difference(f"sample {index}: its line has no end")
    return line


def _tokens(values: Sequence[Any], request: BatchRequest, index: int, name: str) -> Tokens:
    tokens = np.array(values)
    if tokens.dtype.kind != "i":
        raise Difference(f"sample {index}: {name} holds something that is no token")
    if tokens.shape != (request.spec.L,):
        raise Difference(f"sample {index}: {name} has {len(values)} tokens, not {request.spec.L}")
    return tokens


def _stacked(samples: list[tuple[Tokens, Tokens]]) -> Rows:
    x, y = zip(*samples, strict=True)
    return Rows(np.stack(x), np.stack(y))
