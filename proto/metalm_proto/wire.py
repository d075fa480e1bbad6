"""Batches to the bytes of protobuf messages and back.

x and y are nearly all of a message, so they never pass through a message
object: protobuf allows fields in any order, and a message's encoding is the
concatenation of its fields' (protobuf.dev/programming-guides/encoding), so the
encoder writes the small fields with the library, those that all batches of a
stream share only once, and puts the others and the two arrays between them, and
the decoder cuts the arrays out and gives the rest to the library.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import xxhash
from google.protobuf.message import DecodeError

from metalm_proto.batch import Batch, Language, Provenance, Tokens
from metalm_proto.errors import CorruptBatch, InvalidArgument
from metalm_proto.messages import (
    DATA_TYPES,
    DTYPES,
    SPLIT_CODES,
    SPLITS,
    spec_from_message,
    spec_to_message,
)
from metalm_proto.protobuf import FIXED_64_BITS, scan, tag, varint
from metalm_proto.spec import BatchRequest, Spec, Split
from metalm_proto.v1 import metalm_pb2 as pb

Buffer = bytes | memoryview

MEDIA_TYPE = "application/x-protobuf; proto=metalm.v1.Batch"
STREAM_MEDIA_TYPE = f"{MEDIA_TYPE}; encoding=delimited"

_FIXED64 = struct.Struct("<Q")
_FIRST = pb.Batch.DESCRIPTOR.fields_by_name["first"].number
_DIGEST = pb.Batch.DESCRIPTOR.fields_by_name["digest"].number
_X = pb.Batch.DESCRIPTOR.fields_by_name["x"].number
_Y = pb.Batch.DESCRIPTOR.fields_by_name["y"].number
_BATCH_IN_RESPONSE = pb.StreamBatchesResponse.DESCRIPTOR.fields_by_name["batch"].number


def encode_batch(batch: Batch) -> list[Buffer]:
    """The buffers that, one after another, are the serialised `metalm.v1.Batch`.

    The arrays are not copied: the buffers are views of them.
    """
    layout = _layout(batch.spec, batch.seed, batch.split, batch.generator, batch.size)
    head = layout.head(batch)
    if batch.provenance is not None:
        head += pb.Batch(provenance=_provenance_to_message(batch.provenance)).SerializeToString()
    return [head + layout.until_x, _bytes_of(batch.x), layout.until_y, _bytes_of(batch.y)]


class StreamWriter:
    """Batches of a request, without provenance, in the length-delimited form: one buffer, in which
    x and y are made where they will be sent from.

    `sizes`: samples of each batch. For each of them ask for its `room`, then `add` it.
    """

    def __init__(self, request: BatchRequest, sizes: Sequence[int]) -> None:
        self._spec = request.spec
        self._layouts = deque(_layout_in(request, size) for size in sizes)
        # So that the first x is aligned, and often those behind it are.
        skipped = -self._layouts[0].x % self._spec.dtype.itemsize
        nbytes = sum(layout.nbytes for layout in self._layouts)
        self._data = np.empty(skipped + nbytes, np.uint8)[skipped:]
        self._end = 0
        self._room: tuple[Tokens, ...] = ()

    def room(self) -> tuple[Tokens, Tokens] | None:
        """x and y of the next batch, each [B, L], to be filled; None where they would not be
        aligned."""
        layout = self._layouts[0]
        x, y = self._room = tuple(
            np.ndarray((layout.size, self._spec.L), self._spec.dtype, self._data, self._end + begin)
            for begin in (layout.x, layout.y)
        )
        return (x, y) if x.flags.aligned and y.flags.aligned else None

    def add(self, batch: Batch) -> None:
        """Writes what is around x and y, and them if they are not those of `room`."""
        for there, array in zip(self._room, batch, strict=True):
            if there is not array:
                there[:] = array
        layout = self._layouts.popleft()
        self._put(self._end, layout.prefix + layout.head(batch) + layout.until_x)
        self._put(self._end + layout.y - len(layout.until_y), layout.until_y)
        self._end += layout.nbytes

    def written(self) -> list[Buffer]:
        """The bytes of all that were added."""
        return [self._data[: self._end].data]

    def _put(self, begin: int, data: bytes) -> None:
        self._data[begin : begin + len(data)] = np.frombuffer(data, np.uint8)


def encoded_length(request: BatchRequest) -> int | None:
    """Bytes of all batches of a request in the length-delimited form, known before they exist.

    None with provenance, whose size depends on the languages.
    """
    if request.provenance:
        return None
    full, last = request.sizes()
    total = full * _layout_in(request, request.batch_size).nbytes if full else 0
    return total + (_layout_in(request, last).nbytes if last else 0)


class _Layout(NamedTuple):
    """What all batches of one size of a stream have in common.

    `until_first`, `until_digest`, `until_x` and `until_y`: the bytes of a message up to each of
    those that differ. Without provenance, in the length-delimited form: `prefix` comes before it, x
    and y begin at those offsets, and there are `nbytes` in all.
    """

    size: int
    until_first: bytes
    until_digest: bytes
    until_x: bytes
    until_y: bytes
    prefix: bytes
    x: int
    y: int
    nbytes: int

    def head(self, batch: Batch) -> bytes:
        """All fields before x, but for the provenance."""
        first, digest = _FIXED64.pack(batch.first), _FIXED64.pack(batch.digest)
        return self.until_first + first + self.until_digest + digest


@lru_cache(maxsize=64)
def _layout(spec: Spec, seed: int, split: Split, generator: str, size: int) -> _Layout:
    before_first = pb.Batch(
        generator=generator, spec=spec_to_message(spec), seed=seed, split=SPLIT_CODES[split]
    )
    before_digest = pb.Batch(shape=(size, spec.L), dtype=DATA_TYPES[spec.dtype])
    until_first = before_first.SerializeToString() + tag(_FIRST, FIXED_64_BITS)
    until_digest = before_digest.SerializeToString() + tag(_DIGEST, FIXED_64_BITS)
    array_bytes = size * spec.L * spec.dtype.itemsize
    until_x, until_y = (tag(number) + varint(array_bytes) for number in (_X, _Y))
    x = len(until_first) + len(until_digest) + 2 * _FIXED64.size + len(until_x)
    y = x + array_bytes + len(until_y)
    prefix = varint(y + array_bytes)
    in_stream = (len(prefix) + offset for offset in (x, y, y + array_bytes))
    return _Layout(size, until_first, until_digest, until_x, until_y, prefix, *in_stream)


def _layout_in(request: BatchRequest, size: int) -> _Layout:
    return _layout(request.spec, request.seed, request.split, request.generator, size)


def length_prefixed(buffers: list[Buffer]) -> list[Buffer]:
    """The same message in protobuf's length-delimited form (one after another in a stream)."""
    return [varint(sum(map(len, buffers))), *buffers]


def batch_response(buffers: list[Buffer]) -> bytes:
    """A SampleResponse or StreamBatchesResponse that holds the batch."""
    return b"".join([tag(_BATCH_IN_RESPONSE), *length_prefixed(buffers)])


def batch_from_response(data: Buffer) -> Batch:
    """The batch in a SampleResponse or StreamBatchesResponse, as `decode_batch` has it.

    Raises CorruptBatch.
    """
    for number, value, _ in scan(memoryview(data)):
        if number == _BATCH_IN_RESPONSE and value is not None:
            return decode_batch(value)
    raise CorruptBatch("the answer holds no batch")


def decode_batch(data: Buffer | bytearray) -> Batch:
    """The batch in a serialised `metalm.v1.Batch`; x and y are writable.

    Where `data` is writable they are views of it, so give it away. The digest of x and y is not
    checked: see `Batch.verify`. Raises CorruptBatch if it is no batch.
    """
    view = memoryview(data)
    arrays: dict[int, Buffer] = {_X: b"", _Y: b""}
    rest: list[Buffer] = []
    start = 0
    for number, value, end in scan(view):
        if number in arrays and value is not None:
            arrays[number] = value
        else:
            rest.append(view[start:end])
        start = end
    try:
        header = pb.Batch.FromString(b"".join(rest))
        spec = _known_spec(header.spec.SerializeToString())
        if header.dtype not in DTYPES or DTYPES[header.dtype] != spec.dtype:
            raise CorruptBatch(f"batch: data type {header.dtype} does not belong to its spec")
        size, length = header.shape
        if size < 1 or length != spec.L or header.split not in SPLITS:
            raise CorruptBatch("batch: shape or split does not belong to its spec")
        x, y = (_array(arrays[number], spec.dtype, (size, length)) for number in (_X, _Y))
        return Batch(
            spec=spec,
            seed=header.seed,
            split=SPLITS[header.split],
            first=header.first,
            x=x,
            y=y,
            digest=header.digest,
            provenance=_provenance_from_message(header, spec.dtype),
            generator=header.generator,
        )
    except (DecodeError, ValueError, InvalidArgument) as error:
        raise CorruptBatch(f"not a batch: {error}") from error


@lru_cache(maxsize=64)
def _known_spec(data: bytes) -> Spec:
    """A spec is the same in every batch of a stream: it is validated once."""
    return spec_from_message(pb.Spec.FromString(data))


def _provenance_to_message(provenance: Provenance) -> pb.Provenance:
    message = pb.Provenance(
        element=bytes(_bytes_of(provenance.element)),
        offset=bytes(_bytes_of(provenance.offset)),
        exposure=bytes(_bytes_of(provenance.exposure)),
        corruption=bytes(_bytes_of(provenance.corruption)),
        languages=[
            pb.Language(
                lengths=bytes(_bytes_of(language.lengths)), tokens=bytes(_bytes_of(language.tokens))
            )
            for language in provenance.languages
        ],
    )
    message.digest = _provenance_digest(message)
    return message


def _provenance_digest(message: pb.Provenance) -> int:
    state = xxhash.xxh3_64()
    for data in (message.element, message.offset, message.exposure, message.corruption):
        state.update(data)
    for language in message.languages:
        state.update(language.lengths)
        state.update(language.tokens)
    return state.intdigest()


def _provenance_from_message(header: pb.Batch, dtype: np.dtype[Any]) -> Provenance | None:
    if not header.HasField("provenance"):
        return None
    message, shape = header.provenance, tuple(header.shape)
    if message.digest != _provenance_digest(message):
        raise CorruptBatch("batch: the provenance is not the bytes that its digest was made of")
    int32, uint8 = np.dtype("<i4"), np.dtype("|u1")
    return Provenance(
        element=_array(message.element, int32, shape),
        offset=_array(message.offset, int32, shape),
        exposure=_array(message.exposure, int32, shape),
        corruption=_array(message.corruption, uint8, shape),
        languages=tuple(
            Language(
                lengths=_array(language.lengths, int32, (-1,)),
                tokens=_array(language.tokens, dtype, (-1,)),
            )
            for language in message.languages
        ),
    )


def _array(data: Buffer, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Tokens:
    """The data as an array that may be written to; copied only where it must be."""
    array = np.frombuffer(data, dtype).reshape(shape)
    return array if array.flags.writeable and array.flags.aligned else array.copy()


def _bytes_of(array: Tokens) -> memoryview:
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return little.data.cast("B")
