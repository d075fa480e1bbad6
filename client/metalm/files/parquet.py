"""Parquet: the columns of Arrow's format, compressed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from metalm.files import arrow
from metalm.files.base import Content, Forward, Rows, request_of
from metalm_proto.batch import Batch
from metalm_proto.spec import BatchRequest

BINARY = True
DIGESTED = False
LIBRARY = arrow.LIBRARY

check = arrow.check

_ROW_GROUP_BYTES = 2**24


def write(
    batches: Iterable[Batch], request: BatchRequest, stream: BinaryIO, content: Content
) -> None:
    """A row group for some 16 MiB of samples, compressed with zstd.

    (Without dictionaries: tokens that stand as bytes repeat as the elements do, which zstd sees
    and bit-packed codes would hide.)
    """
    schema = arrow.schema_of(request)
    arrays_bytes = 2 * request.batch_size * request.spec.L * request.spec.dtype.itemsize
    remaining = iter(batches)
    with (
        arrow.errors(),
        pa.PythonFile(Forward(stream), "w") as sink,
        pq.ParquetWriter(
            sink, schema, compression="zstd", use_dictionary=False, write_statistics=["index"]
        ) as writer,
    ):
        while group := list(islice(remaining, max(1, _ROW_GROUP_BYTES // arrays_bytes))):
            table = pa.Table.from_batches([arrow.record_batch(b, schema) for b in group])
            writer.write_table(table, row_group_size=table.num_rows)


def request(stream: BinaryIO) -> BatchRequest:
    with arrow.native(stream) as native, pq.ParquetFile(native) as file:
        return request_of(arrow.header_in(file.schema_arrow))


def rows(stream: BinaryIO, request: BatchRequest) -> Iterator[Rows]:
    with arrow.native(stream) as native, pq.ParquetFile(native) as file:
        arrow.check_schema(file.schema_arrow, request)
        # One after another: asked for all of them, the reader keeps what it has read.
        batches = (
            batch
            for number in range(file.num_row_groups)
            for batch in file.iter_batches(request.batch_size, row_groups=[number])
        )
        yield from arrow.rows_of(batches, request)
