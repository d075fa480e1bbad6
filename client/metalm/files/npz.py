"""npz: `x` and `y`, [samples, L], and `metadata`, JSON that says which samples these are."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Iterable, Iterator
from typing import IO, Any, BinaryIO

import numpy as np
import xxhash

from metalm.files.base import (
    Content,
    Difference,
    Forward,
    Rows,
    check_header,
    header_of,
    request_of,
)
from metalm_proto.batch import Batch
from metalm_proto.spec import BatchRequest, Spec

BINARY = True
DIGESTED = True
LIBRARY: str | None = None

_LOCAL_HEADER = struct.Struct("<26xHH")
_ARRAYS = ("x", "y")


def check(spec: Spec) -> None:
    """An npz holds any sample."""


def write(
    batches: Iterable[Batch], request: BatchRequest, stream: BinaryIO, content: Content
) -> None:
    """x goes straight to its place while y waits in `content`: the size is not bounded by
    memory."""
    with zipfile.ZipFile(Forward(stream), "w", zipfile.ZIP_STORED) as archive:
        with _entry(archive, "x") as target:
            _write_header(target, request)
            for batch in batches:
                target.write(batch.x.data)
        with _entry(archive, "y") as target:
            _write_header(target, request)
            for piece in content.y_pieces():
                target.write(piece)
        with _entry(archive, "metadata") as target:
            metadata = {**header_of(request), "digest": content.hexdigest()}
            np.save(target, np.array(json.dumps(metadata)))


def request(stream: BinaryIO) -> BatchRequest:
    with zipfile.ZipFile(stream) as archive:
        return request_of(_metadata(archive))


def rows(stream: BinaryIO, request: BatchRequest) -> Iterator[Rows]:
    with zipfile.ZipFile(stream) as archive:
        metadata = _metadata(archive)
        check_header(metadata, request)
        places = [_place(archive, stream, name, request) for name in _ARRAYS]
        length = request.spec.L * request.spec.dtype.itemsize
        done = 0
        for _, size in request.ranges():
            pieces = [_read(stream, place + done * length, size * length) for place in places]
            yield Rows(
                *(np.frombuffer(piece, request.spec.dtype).reshape(size, -1) for piece in pieces)
            )
            done += size
        _check_digest(archive, request, metadata.get("digest"))


def _metadata(archive: zipfile.ZipFile) -> Any:
    with archive.open("metadata.npy") as member:
        return json.loads(str(np.lib.format.read_array(member, allow_pickle=False)))


def _place(archive: zipfile.ZipFile, stream: BinaryIO, name: str, request: BatchRequest) -> int:
    """Where the rows of an array begin in the file."""
    # Not through the archive, which would hide what is wrong behind its checksum.
    info = archive.getinfo(f"{name}.npy")
    local = _read(stream, info.header_offset, _LOCAL_HEADER.size)
    name_size, extra_size = _LOCAL_HEADER.unpack(local)
    place = info.header_offset + _LOCAL_HEADER.size + name_size + extra_size
    stream.seek(place)
    _read_header(stream, name, request)
    rows_place = stream.tell()
    expected = rows_place - place + request.samples * request.spec.L * request.spec.dtype.itemsize
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != expected:
        raise Difference(f"{name} has {info.file_size} bytes, not {expected}")
    return rows_place


def _read_header(member: IO[bytes], name: str, request: BatchRequest) -> None:
    np.lib.format.read_magic(member)
    shape, _, dtype = np.lib.format.read_array_header_1_0(member)
    expected = (request.samples, request.spec.L)
    if shape != expected or dtype != request.spec.dtype:
        raise Difference(f"{name} is {dtype} {shape}; it should be {request.spec.dtype} {expected}")


def _check_digest(archive: zipfile.ZipFile, request: BatchRequest, digest: object) -> None:
    """Reads the arrays once more, as everyone does: with the archive's checksums."""
    state = xxhash.xxh3_64()
    for name in _ARRAYS:
        with archive.open(f"{name}.npy") as member:
            _read_header(member, name, request)
            while piece := member.read(2**20):
                state.update(piece)
    if state.hexdigest() != digest:
        raise Difference(f"digest is {digest}; it should be {state.hexdigest()}")


def _read(stream: BinaryIO, place: int, size: int) -> bytes:
    stream.seek(place)
    found = stream.read(size)
    if len(found) != size:
        raise Difference("the file is cut off")
    return found


def _write_header(target: IO[bytes], request: BatchRequest) -> None:
    shape = (request.samples, request.spec.L)
    description = {"descr": request.spec.dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(target, description)


def _entry(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """A file in the archive; with a fixed time, so that the same samples make the same bytes."""
    return archive.open(
        zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), "w", force_zip64=True
    )
