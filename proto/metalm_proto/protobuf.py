"""Protobuf's encoding of fields (protobuf.dev/programming-guides/encoding), as far as messages are
read and written around the library."""

from __future__ import annotations

from collections.abc import Iterator

from metalm_proto.errors import CorruptBatch

FIXED_64_BITS = 1
LENGTH_DELIMITED = 2
_WIDTHS = {FIXED_64_BITS: 8, 5: 4}


def scan(message: memoryview) -> Iterator[tuple[int, memoryview | None, int]]:
    """(field number, payload if length-delimited, end) of each top-level field.

    Raises CorruptBatch where the encoding breaks off.
    """
    position = 0
    while position < len(message):
        key, position = read_varint(message, position)
        number, wire_type = key >> 3, key & 7
        payload: memoryview | None = None
        if wire_type == LENGTH_DELIMITED:
            length, position = read_varint(message, position)
            payload = message[position : position + length]
            position += length
        elif wire_type == 0:
            _, position = read_varint(message, position)
        elif wire_type in _WIDTHS:
            position += _WIDTHS[wire_type]
        else:
            raise CorruptBatch(f"not a batch: wire type {wire_type}")
        if position > len(message):
            raise CorruptBatch("not a batch: it breaks off inside a field")
        yield number, payload, position


def read_varint(data: bytes | memoryview, position: int) -> tuple[int, int]:
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


def tag(number: int, wire_type: int = LENGTH_DELIMITED) -> bytes:
    """What stands before a field's value."""
    return varint(number << 3 | wire_type)


def varint(value: int) -> bytes:
    """A length, or a whole number that is not negative, in as few bytes as it takes."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
