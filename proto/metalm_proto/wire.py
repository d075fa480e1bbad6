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
from collections.abc import Iterator, Sequence
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
from metalm_proto.spec import BatchRequest, Spec, Split
from metalm_proto.v1 import metalm_pb2 as pb

Buffer = bytes | memoryview

MEDIA_TYPE = "application/x-protobuf; proto=metalm.v1.Batch"
STREAM_MEDIA_TYPE = f"{MEDIA_TYPE}; encoding=delimited"

_LENGTH_DELIMITED = 2
_FIXED_64_BITS = 1
_FIXED_WIDTHS = {_FIXED_64_BITS: 8, 5: 4}
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
    parts = _constant_parts(
        batch.spec, batch.seed, batch.split, batch.generator, batch.size, batch.spec.L
    )
    head = parts.head(batch)
    if batch.provenance is not None:
        head += pb.Batch(provenance=_provenance_to_message(batch.provenance)).SerializeToString()
    return [head + parts.until_x, _bytes_of(batch.x), parts.until_y, _bytes_of(batch.y)]


class StreamWriter:
    """Batches of a request, without provenance, in the length-delimited form: one buffer, in which
    x and y are made where they will be sent from.

    `sizes`: samples of each batch. For each of them ask for its `room`, then `add` it.
    """

    def __init__(self, request: BatchRequest, sizes: Sequence[int]) -> None:
        self._request = request
        self._messages = deque(_message_of(request, size) for size in sizes)
        nbytes = sum(message.nbytes for message in self._messages)
        # So that the first x is aligned, and often those behind it are.
        itemsize = request.spec.dtype.itemsize
        skipped = -self._messages[0].x % itemsize
        self._data = np.empty(skipped + nbytes, np.uint8)[skipped:]
        self._end = 0
        self._room: tuple[Tokens, ...] = ()

    def room(self) -> tuple[Tokens, Tokens] | None:
        """x and y of the next batch, each [B, L], to be filled; None where they would not be
        aligned."""
        spec, message = self._request.spec, self._messages[0]
        shape = (message.size, spec.L)
        x, y = self._room = tuple(
            np.ndarray(shape, spec.dtype, self._data, self._end + offset)
            for offset in (message.x, message.y)
        )
        return (x, y) if x.flags.aligned and y.flags.aligned else None

    def add(self, batch: Batch) -> None:
        """Writes what is around x and y, and them if they are not those of `room`."""
        for there, array in zip(self._room, batch, strict=True):
            if there is not array:
                there[:] = array
        message = self._messages.popleft()
        begin, self._end = self._end, self._end + message.nbytes
        self._put(begin, message.prefix + message.parts.head(batch) + message.parts.until_x)
        self._put(begin + message.y - len(message.parts.until_y), message.parts.until_y)

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
    total = full * _encoded_batch_length(request, request.batch_size) if full else 0
    return total + (_encoded_batch_length(request, last) if last else 0)


def _encoded_batch_length(request: BatchRequest, size: int) -> int:
    return _message_of(request, size).nbytes


class _ConstantParts(NamedTuple):
    """What all batches of one size of a stream have in common, up to where each differs."""

    until_first: bytes
    until_digest: bytes
    until_x: bytes
    until_y: bytes

    def head(self, batch: Batch) -> bytes:
        """All fields before x, but for the provenance."""
        first, digest = _FIXED64.pack(batch.first), _FIXED64.pack(batch.digest)
        return self.until_first + first + self.until_digest + digest


class _Message(NamedTuple):
    """The length-delimited form of a batch without provenance: `nbytes` in all, of which the first
    are `prefix`; x and y begin at those offsets."""

    size: int
    parts: _ConstantParts
    prefix: bytes
    x: int
    y: int
    nbytes: int


def _message_of(request: BatchRequest, size: int) -> _Message:
    spec = request.spec
    parts = _constant_parts(spec, request.seed, request.split, request.generator, size, spec.L)
    nbytes = size * spec.L * spec.dtype.itemsize
    before_x = len(parts.until_first) + len(parts.until_digest) + 2 * _FIXED64.size
    x = before_x + len(parts.until_x)
    y = x + nbytes + len(parts.until_y)
    prefix = _varint(y + nbytes)
    return _Message(size, parts, prefix, *(len(prefix) + offset for offset in (x, y, y + nbytes)))


@lru_cache(maxsize=64)
def _constant_parts(
    spec: Spec, seed: int, split: Split, generator: str, size: int, length: int
) -> _ConstantParts:
    before_first = pb.Batch(
        generator=generator, spec=spec_to_message(spec), seed=seed, split=SPLIT_CODES[split]
    )
    before_digest = pb.Batch(shape=(size, length), dtype=DATA_TYPES[spec.dtype])
    nbytes = _varint(size * length * spec.dtype.itemsize)
    return _ConstantParts(
        before_first.SerializeToString() + _tag(_FIRST, _FIXED_64_BITS),
        before_digest.SerializeToString() + _tag(_DIGEST, _FIXED_64_BITS),
        _tag(_X) + nbytes,
        _tag(_Y) + nbytes,
    )


def length_prefixed(buffers: list[Buffer]) -> list[Buffer]:
    """The same message in protobuf's length-delimited form (one after another in a stream)."""
    return [_varint(sum(map(len, buffers))), *buffers]


def batch_response(buffers: list[Buffer]) -> bytes:
    """A SampleResponse or StreamBatchesResponse that holds the batch."""
    return b"".join([_tag(_BATCH_IN_RESPONSE), *length_prefixed(buffers)])


def batch_from_response(data: Buffer) -> Batch:
    """The batch in a SampleResponse or StreamBatchesResponse, as `decode_batch` has it.

    Raises CorruptBatch.
    """
    for number, value, _ in _scan(memoryview(data)):
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
    for number, value, end in _scan(view):
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


def _scan(message: memoryview) -> Iterator[tuple[int, memoryview | None, int]]:
    """(field number, payload if length-delimited, end) of each top-level field.

    Raises CorruptBatch where the encoding breaks off.
    """
    position = 0
    while position < len(message):
        key, position = read_varint(message, position)
        number, wire_type = key >> 3, key & 7
        payload: memoryview | None = None
        if wire_type == _LENGTH_DELIMITED:
            length, position = read_varint(message, position)
            payload = message[position : position + length]
            position += length
        elif wire_type == 0:
            _, position = read_varint(message, position)
        elif wire_type in _FIXED_WIDTHS:
            position += _FIXED_WIDTHS[wire_type]
        else:
            raise CorruptBatch(f"not a batch: wire type {wire_type}")
        if position > len(message):
            raise CorruptBatch("not a batch: it breaks off inside a field")
        yield number, payload, position


def read_varint(data: Buffer, position: int) -> tuple[int, int]:
    """(value, position behind it). Raises CorruptBatch if there is no complete varint."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise CorruptBatch("not a batch: a length or tag breaks off")


def _tag(number: int, wire_type: int = _LENGTH_DELIMITED) -> bytes:
    return _varint(number << 3 | wire_type)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
