"""JSON lines: an object a sample, with its index, x and y, and the stream that it is of."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, BinaryIO

from metalm.files.base import Content, Difference, Rows, check_header, request_of, stream_of
from metalm.files.lines import rows_of_lines
from metalm_proto.batch import Batch
from metalm_proto.spec import BatchRequest, Spec

BINARY = False
DIGESTED = False
LIBRARY: str | None = None

_LONGEST_TOKENS = 2 * 11
_LONGEST_REST = 2**12


def check(spec: Spec) -> None:
    """JSON holds any sample."""


def write(
    batches: Iterable[Batch], request: BatchRequest, stream: BinaryIO, content: Content
) -> None:
    stream_fields = _compact(stream_of(request))[1:-1]
    for batch in batches:
        rows = zip(batch.x.tolist(), batch.y.tolist(), strict=True)
        stream.write(
            "".join(
                f'{{"index":{index},{stream_fields},"x":{_compact(x)},"y":{_compact(y)}}}\n'
                for index, (x, y) in enumerate(rows, batch.first)
            ).encode()
        )


def request(stream: BinaryIO) -> BatchRequest:
    """Of the first line, and of as many as there are."""
    fields = json.loads(stream.readline())
    samples = 1
    while piece := stream.read(2**20):
        samples += piece.count(b"\n")
    return request_of({**fields, "first": fields.get("index"), "samples": samples})


def rows(stream: BinaryIO, request: BatchRequest) -> Iterator[Rows]:
    longest = request.spec.L * _LONGEST_TOKENS + _LONGEST_REST
    return rows_of_lines(stream, request, longest, partial(_parsed, request, stream_of(request)))


def _parsed(
    request: BatchRequest, stream_fields: dict[str, Any], line: bytes, index: int
) -> tuple[list[Any], list[Any]]:
    fields = json.loads(line)
    if not isinstance(fields, dict):
        raise Difference(f"sample {index} is no object")
    x, y = fields.pop("x", None), fields.pop("y", None)
    if not isinstance(x, list) or not isinstance(y, list):
        raise Difference(f"sample {index}: x and y are not lists")
    if fields != {**stream_fields, "index": index}:
        header = {**fields, "first": fields.get("index"), "samples": 1}
        try:
            check_header(header, replace(request, start=index, stop=index + 1))
        except Difference as error:
            raise Difference(f"sample {index}: {error}") from error
    return x, y


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
