"""The forms of an answer, and which of them a request asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastapi import Request

from metalm_proto import errors, formats, wire
from metalm_proto.batch import Batch
from metalm_proto.spec import BatchRequest
from metalm_service.handler import Portion, Writer
from metalm_service.limits import PLAIN, TOGETHER, Encoding

Pairs = list[tuple[str, str]]

Buffers = Sequence[wire.Buffer]

WRITE_BYTES = TOGETHER.together_bytes + 2**16
"""Given to the connection at once: the arrays of small batches, and their heads."""


class _Encoded:
    """A writer of what an encoder makes of each batch."""

    def __init__(self, encode: Callable[[Batch], Buffers]) -> None:
        self._encode = encode
        self._buffers: list[wire.Buffer] = []

    def room(self) -> None:
        """Anywhere."""

    def add(self, batch: Batch) -> None:
        self._buffers += _joined(self._encode(batch))

    def written(self) -> Buffers:
        return self._buffers


def _joined(buffers: Buffers) -> Buffers:
    """The same bytes in one buffer, where they are not too many.

    Each buffer is a write to the connection and wakes its reader, which costs more than copying
    this much; a copy of far more would keep the interpreter from all others meanwhile.
    """
    few = sum(map(len, buffers)) <= WRITE_BYTES
    return [b"".join(buffers)] if few and len(buffers) > 1 else buffers


@dataclass(frozen=True, slots=True)
class Format:
    """A form of an answer: its name in `format=`, its media type, its encoder."""

    name: str
    media_type: str
    encode: Callable[[Batch], Buffers]
    encoding: Encoding = PLAIN
    tells_provenance: bool = True
    # Bytes of the whole answer, where they are known before it is generated.
    length: Callable[[BatchRequest], int | None] = lambda request: None

    def writer(self, request: BatchRequest, portion: Portion) -> Writer[Buffers]:
        """For batches of a request."""
        return _Encoded(self.encode)


class _Stream(Format):
    """The length-delimited form, written in place where that can be."""

    def writer(self, request: BatchRequest, portion: Portion) -> Writer[Buffers]:
        if request.provenance:
            return _Encoded(self.encode)
        return wire.StreamWriter(request, [size for _, size in portion])


# Lists of Python's integers and strings are large.
_JSON = Encoding(bytes_a_byte=16, ns_a_token=700, holds_the_interpreter=True)

SAMPLE_FORMATS = (
    Format(
        "json",
        "application/json",
        lambda batch: [formats.sample_to_json(batch).encode()],
        _JSON,
    ),
    Format(
        "text",
        "text/plain; charset=utf-8",
        lambda batch: [formats.to_text(batch).encode()],
        Encoding(bytes_a_byte=40, ns_a_token=300, holds_the_interpreter=True),
        tells_provenance=False,
    ),
    Format(
        "npz",
        "application/zip",
        lambda batch: [formats.to_npz(batch)],
        Encoding(bytes_a_byte=2, ns_a_token=10),
        tells_provenance=False,
    ),
    Format("protobuf", wire.MEDIA_TYPE, wire.encode_batch),
)
BATCHES_FORMATS = (
    _Stream(
        "protobuf",
        wire.STREAM_MEDIA_TYPE,
        lambda batch: wire.length_prefixed(wire.encode_batch(batch)),
        TOGETHER,
        length=wire.encoded_length,
    ),
    Format(
        "ndjson",
        "application/x-ndjson",
        lambda batch: [(formats.to_json(batch) + "\n").encode()],
        _JSON,
    ),
)


def negotiate(request: Request, choices: Sequence[Format]) -> tuple[Pairs, Format]:
    """The query without `format`, and the format it or the Accept header asks for."""
    pairs = request.query_params.multi_items()
    names = [text for name, text in pairs if name == "format"]
    rest = [(name, text) for name, text in pairs if name != "format"]
    if not names:
        return rest, _accepted(request.headers.get("accept", "*/*"), choices)
    for choice in choices:
        if names == [choice.name]:
            return rest, choice
    bound = "one of " + ", ".join(choice.name for choice in choices)
    raise errors.InvalidArgument("format", names[0] if len(names) == 1 else names, bound)


def _accepted(header: str, choices: Sequence[Format]) -> Format:
    """The choice with the highest quality in an Accept header (RFC 9110, 12.5.1), else the first.

    Only types that are named count: a wildcard asks for the default.
    """
    best, best_quality = choices[0], 0.0
    for part in header.split(","):
        media_type, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
        for choice in choices:
            matches = choice.media_type.partition(";")[0] == media_type
            if (matches or (media_type == "*/*" and choice is choices[0])) and (
                quality > best_quality
            ):
                best, best_quality = choice, quality
    return best
