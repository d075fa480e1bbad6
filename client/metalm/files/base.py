"""What the formats have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
import xxhash

from metalm.client import MetaLMClient
from metalm.files.disk import TEMPORARY
from metalm.iterator import BatchIterator
from metalm_proto.batch import Batch, Tokens
from metalm_proto.errors import InvalidArgument
from metalm_proto.fields import U64, Field
from metalm_proto.spec import FIRST, SPEC_FIELDS, BatchRequest, Spec

SAMPLES = Field(name="samples", default=100, lower=1, upper=U64, doc="samples to write")

_BATCH_BYTES = 2**20
_BATCH_SAMPLES = 2**12
_SPOOL_BYTES = 2**24
_PREFETCH_BYTES = 2**24


class Difference(Exception):
    """A file is not what it should be; the message says where and how."""


class Rows(NamedTuple):
    """Samples as they stand in a file: x and y, [k, L] of any integer type."""

    x: Tokens
    y: Tokens


class Codec(Protocol):
    """A format of files."""

    BINARY: bool
    """Whether a terminal is no place for it."""
    DIGESTED: bool
    """Whether the file tells the digest of what it holds."""
    LIBRARY: str | None
    """Name and version of what makes the bytes, beside this package and numpy."""

    def check(self, spec: Spec) -> None:
        """Raises InvalidArgument for samples that the format cannot hold."""
        ...

    def write(
        self,
        batches: Iterable[Batch],
        request: BatchRequest,
        stream: BinaryIO,
        content: Content,
    ) -> None:
        """Writes the request's batches; where DIGESTED, `content` watches them.

        Raises OSError, and what the batches raise.
        """
        ...

    def request(self, stream: BinaryIO) -> BatchRequest:
        """Which samples a file says that it holds. Raises what a damaged file gives rise to."""
        ...

    def rows(self, stream: BinaryIO, request: BatchRequest) -> Iterator[Rows]:
        """The samples of a file, in pieces of any number, but no more than fit into memory.

        Raises Difference where the file is not one of the request's samples but for the tokens
        themselves, and what a damaged file gives rise to.
        """
        ...


class Content:
    """Samples that pass by: their digest, and y once more when all of x has passed.

    The digest is that of a batch of all these samples, XXH3-64 of the bytes of x followed by those
    of y. Until then y waits, in a file without a name in `directory` when it is large.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._x = xxhash.xxh3_64()
        place = None if directory is None else str(directory)
        self._y = SpooledTemporaryFile(_SPOOL_BYTES, dir=place, prefix=TEMPORARY)  # noqa: SIM115

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self.add(batch.x, batch.y)
            yield batch

    def add(self, x: Tokens, y: Tokens) -> None:
        """Takes samples of the spec's dtype, [k, L]."""
        self._x.update(np.ascontiguousarray(x).data.cast("B"))
        self._y.write(np.ascontiguousarray(y).data.cast("B"))

    def y_pieces(self) -> Iterator[bytes]:
        """The bytes of all y."""
        self._y.seek(0)
        while piece := self._y.read(2**20):
            yield piece

    def hexdigest(self) -> str:
        state = self._x.copy()
        for piece in self.y_pieces():
            state.update(piece)
        return state.hexdigest()

    def __enter__(self) -> Content:
        return self

    def __exit__(self, *_: object) -> None:
        self._y.close()


class Forward:
    """A stream that is written from its beginning to its end, so that a file has the same bytes as
    a pipe, and that stays open."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.closed = False

    def write(self, piece: bytes) -> int:
        return self._stream.write(piece)

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        self.closed = True


def batch_size_for(spec: Spec) -> int:
    """Samples a batch, so that it has about a MiB whatever the L. Record batches have as many, so
    it is a part of what the bytes of a file depend on."""
    return max(1, min(_BATCH_SAMPLES, _BATCH_BYTES // (2 * spec.L * spec.dtype.itemsize)))


def batches_of(client: MetaLMClient, request: BatchRequest) -> BatchIterator:
    """The batches of the request, in order; to be closed. Its `next` raises any MetaLMError."""
    return client.batches(
        spec=request.spec,
        seed=request.seed,
        split=request.split,
        start=request.start,
        stop=request.stop,
        batch_size=request.batch_size,
        # A disk is no faster than the generator: little needs to lie ready.
        prefetch_bytes=_PREFETCH_BYTES,
    )


def stream_of(request: BatchRequest) -> dict[str, Any]:
    """What says which stream samples are of, as plain JSON types."""
    return {
        "generator": request.generator,
        "spec": request.spec.as_dict(),
        "seed": request.seed,
        "split": str(request.split),
        "ids": request.spec.ids(),
    }


def header_of(request: BatchRequest) -> dict[str, Any]:
    """What says which samples a file holds, as plain JSON types."""
    return {**stream_of(request), "first": request.start, "samples": request.samples}


def request_of(header: object) -> BatchRequest:
    """The samples that a header names. Raises InvalidArgument or UnknownGenerator."""
    if not isinstance(header, dict):
        raise InvalidArgument("metadata", header, "an object that says which samples these are")
    names = [field.name for field in SPEC_FIELDS]
    fields = header.get("spec")
    if not isinstance(fields, dict) or set(fields) - set(names):
        raise InvalidArgument("spec", fields, f"an object of {', '.join(names)}")
    spec = Spec(**fields)
    if header.get("ids") != spec.ids():
        raise InvalidArgument("ids", header.get("ids"), str(spec.ids()))
    first, samples = FIRST.check(header.get("first")), SAMPLES.check(header.get("samples"))
    return BatchRequest(
        spec=spec,
        seed=header.get("seed"),  # type: ignore[arg-type]  # what is no seed is refused by name
        split=header.get("split"),  # type: ignore[arg-type]
        start=first,
        stop=first + samples,
        batch_size=batch_size_for(spec),
        generator=header.get("generator"),  # type: ignore[arg-type]
    )


def flat(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with those of the spec, under the names that they have in messages, among them."""
    spec = {field.label: fields["spec"][field.name] for field in SPEC_FIELDS}
    return {**spec, **{name: value for name, value in fields.items() if name != "spec"}}


def check_header(header: object, request: BatchRequest) -> None:
    """Raises Difference unless the header names the request's samples."""
    try:
        found = header_of(request_of(header))
    except InvalidArgument as error:
        raise Difference(str(error)) from error
    for name, right in flat(header_of(request)).items():
        if (value := flat(found)[name]) != right:
            raise Difference(f"{name} is {value}; it should be {right}")
