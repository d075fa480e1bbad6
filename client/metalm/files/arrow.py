"""Arrow's file format: columns `index`, `x` and `y`; what Parquet has in common with it too.

The key `metalm` of the schema's metadata says which samples a file holds, as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from metalm.files.base import (
    Content,
    Difference,
    Forward,
    Rows,
    check_header,
    header_of,
    request_of,
)
from metalm_proto.batch import Batch, Tokens
from metalm_proto.errors import InvalidArgument
from metalm_proto.spec import BatchRequest, Spec

BINARY = True
DIGESTED = False
LIBRARY: str | None = f"pyarrow {pa.__version__}"

_KEY = b"metalm"
_LONGEST_LIST = 2**31 - 1


def check(spec: Spec) -> None:
    if spec.L > _LONGEST_LIST:
        bound = f"at most {_LONGEST_LIST}, the longest list of Arrow and Parquet"
        raise InvalidArgument("sequence_length (L)", spec.L, bound)


def write(
    batches: Iterable[Batch], request: BatchRequest, stream: BinaryIO, content: Content
) -> None:
    """A record batch for each batch, straight from its arrays."""
    schema = schema_of(request)
    with (
        errors(),
        pa.PythonFile(Forward(stream), "w") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        for batch in batches:
            writer.write_batch(record_batch(batch, schema))


def request(stream: BinaryIO) -> BatchRequest:
    with native(stream) as file, pa.ipc.open_file(file) as reader:
        return request_of(header_in(reader.schema))


def rows(stream: BinaryIO, request: BatchRequest) -> Iterator[Rows]:
    with native(stream) as file, pa.ipc.open_file(file) as reader:
        check_schema(reader.schema, request)
        batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        yield from rows_of(batches, request)


def native(stream: BinaryIO) -> Any:
    """The file of a stream, opened by Arrow: its threads may still have one of Python's when the
    interpreter ends, which ends the process in a crash."""
    return pa.OSFile(stream.name)


def schema_of(request: BatchRequest) -> Any:
    """index, uint64, and x and y, lists of L tokens of the spec's dtype; none is ever null."""
    tokens = pa.field("element", pa.from_numpy_dtype(request.spec.dtype), nullable=False)
    lists = pa.list_(tokens, request.spec.L)
    return pa.schema(
        [
            pa.field("index", pa.uint64(), nullable=False),
            pa.field("x", lists, nullable=False),
            pa.field("y", lists, nullable=False),
        ],
        {_KEY: json.dumps(header_of(request))},
    )


def record_batch(batch: Batch, schema: Any) -> Any:
    """The batch's own memory as columns."""
    lists = schema.field("x").type
    return pa.record_batch(
        [
            pa.array(_indices(batch.first, batch.size)),
            *(
                pa.FixedSizeListArray.from_arrays(pa.array(tokens.reshape(-1)), type=lists)
                for tokens in batch
            ),
        ],
        schema=schema,
    )


def header_in(schema: Any) -> Any:
    return json.loads((schema.metadata or {}).get(_KEY, b"null"))


def check_schema(schema: Any, request: BatchRequest) -> None:
    """Raises Difference unless the file has the request's samples in columns of the right type."""
    check_header(header_in(schema), request)
    found, expected = (
        {name: str(kind) for name, kind in zip(one.names, one.types, strict=True)}
        for one in (schema, schema_of(request))
    )
    if found != expected:
        raise Difference(f"the columns are {found}; they should be {expected}")


def rows_of(batches: Iterable[Any], request: BatchRequest) -> Iterator[Rows]:
    position = request.start
    for whole in batches:
        for start in range(0, whole.num_rows, request.batch_size):
            batch = whole.slice(start, request.batch_size)
            batch.validate()
            size = min(batch.num_rows, request.stop - position)
            index = _values(batch, "index")
            wrong = np.flatnonzero(index[:size] != _indices(position, size))
            right = int(wrong[0]) if wrong.size else size
            if right:
                x, y = (_values(batch, name).reshape(-1, request.spec.L) for name in ("x", "y"))
                yield Rows(x[:right], y[:right])
            position += right
            if wrong.size:
                raise Difference(f"sample {position}: index is {index[right]}")
            if size < batch.num_rows:
                raise Difference(f"there is more after sample {request.stop - 1}, the last")
    if position < request.stop:
        raise Difference(f"sample {position} is missing")


@contextmanager
def errors() -> Iterator[None]:
    """What Arrow cannot write, as an OSError."""
    try:
        yield
    except pa.ArrowException as error:
        raise OSError(f"cannot be written: {error}") from error


def _indices(first: int, size: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return np.arange(size, dtype=np.uint64) + np.uint64(first)


def _values(batch: Any, name: str) -> Tokens:
    column = batch.column(name)
    values = column.flatten() if name != "index" else column
    if column.null_count or values.null_count:
        raise Difference(f"{name} has nulls")
    found: Tokens = values.to_numpy()
    return found
