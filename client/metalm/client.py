"""The client: random access to samples, and an iterator as a cursor over them."""

from __future__ import annotations

from typing import TypedDict, Unpack

from metalm.iterator import BatchIterator
from metalm.transports import connect
from metalm.transports.base import Transport
from metalm_proto.batch import Batch
from metalm_proto.description import Description, Limits
from metalm_proto.errors import InvalidArgument
from metalm_proto.fields import U64, Field
from metalm_proto.spec import (
    BATCH_SIZE,
    INDEX,
    SEED,
    SPEC_FIELDS,
    SPLIT,
    START,
    BatchRequest,
    Profile,
    Spec,
    Split,
    draw_seed,
)

_TIMEOUT = Field(name="timeout_s", kind=float, lower=0, open_lower=True, upper=86400, doc="")
_COUNT = Field(name="count", lower=0, upper=U64, doc="batches")
_STOP = Field(name="stop", lower=0, upper=U64, doc="index after the last sample")


class SpecArguments(TypedDict, total=False):
    """The fields of `Spec`, as keywords."""

    V: int
    n: int
    l: float
    e: float
    L: int
    mask_ratio: float
    profile: Profile | str
    language: int | None


class MetaLMClient:
    """Batches from a service, or from this very process.

    `url`: `http(s)://host:port`, `grpc(s)://host:port`, or `inprocess:` for no service at all; the
    bytes are the same. `timeout_s`: seconds without any sign of the service before
    DeadlineExceeded.

    Everywhere, `spec` or its fields as keywords (V, n, l, e, L, mask_ratio, profile, language) say
    what to generate; `seed` names the stream (None draws one); samples are counted by `index`,
    `first`, `start` and `stop`. Raises InvalidArgument for a value out of bounds, and any other
    MetaLMError as a service has cause to. Thread-safe; iterators are not.

    >>> with MetaLMClient("inprocess:") as client:
    ...     for x, y in client.batches(V=64, n=10, l=64, e=0.1, L=4096, seed=7, count=2):
    ...         print(x.shape, x.dtype, x[0, :6], y[0, :6])
    (32, 4096) uint8 [25 35  9 38 42 13] [35  9 38 42 13 53]
    (32, 4096) uint8 [16 26  2 29 17 31] [26  2 29 17 31 37]
    """

    def __init__(self, url: str = "inprocess:", *, timeout_s: float = 30.0) -> None:
        self.url = url
        self._transport = connect(url, timeout_s=_TIMEOUT.check(timeout_s))
        self._described: Description | None = None
        self._closed = False

    def sample(
        self,
        index: int = 0,
        *,
        seed: int | None = None,
        split: Split | str = Split.TRAIN,
        provenance: bool = False,
        spec: Spec | None = None,
        **fields: Unpack[SpecArguments],
    ) -> Batch:
        """Sample `index` of a stream, as a batch of one: x and y of shape [1, L]."""
        return self.batch(
            INDEX.check(index),
            batch_size=1,
            seed=seed,
            split=split,
            provenance=provenance,
            spec=_spec(spec, fields),
        )

    def batch(
        self,
        first: int = 0,
        *,
        batch_size: int = BATCH_SIZE.default,
        seed: int | None = None,
        split: Split | str = Split.TRAIN,
        provenance: bool = False,
        spec: Spec | None = None,
        **fields: Unpack[SpecArguments],
    ) -> Batch:
        """The samples [first, first + batch_size) of a stream: x and y of shape [batch_size, L]."""
        request = BatchRequest.single(
            spec=_spec(spec, fields),
            seed=draw_seed() if seed is None else seed,
            split=split,
            first=first,
            size=BATCH_SIZE.check(batch_size),
            provenance=provenance,
        )
        with self._iterator(request, request.seed, request.start) as iterator:
            return next(iterator)

    def batches(
        self,
        *,
        batch_size: int = BATCH_SIZE.default,
        seed: int | None = None,
        split: Split | str = Split.TRAIN,
        start: int = 0,
        stop: int | None = None,
        count: int | None = None,
        provenance: bool = False,
        spec: Spec | None = None,
        **fields: Unpack[SpecArguments],
    ) -> BatchIterator:
        """Batch after batch from sample `start` on.

        Endless, unless `stop` (index after the last sample) or `count` (batches) says where to
        end; with `stop` the last batch may be smaller. The seed is told by `.seed`.
        """
        spec = _spec(spec, fields)
        seed = SEED.check(draw_seed() if seed is None else seed)
        start, batch_size = START.check(start), BATCH_SIZE.check(batch_size)
        if stop is not None and count is not None:
            raise InvalidArgument("count", count, "absent where stop is given")
        if count is not None:
            stop = min(U64, start + _COUNT.check(count) * batch_size)
        stop = U64 if stop is None else _STOP.check(stop)
        if stop < start:
            raise InvalidArgument("stop", stop, f"an integer with {start} <= stop <= {U64}")
        request = None
        if stop > start:
            request = BatchRequest(
                spec=spec,
                seed=seed,
                split=SPLIT.check(split),
                start=start,
                stop=stop,
                batch_size=batch_size,
                provenance=provenance,
            )
        return self._iterator(request, seed, start)

    def describe(self, spec: Spec | None = None) -> Description:
        """What the generator behind the URL offers and allows."""
        return self._open().describe(spec)

    def close(self) -> None:
        """Closes the connections; may be called again. Whatever else is called afterwards raises
        RuntimeError."""
        self._closed = True
        self._transport.close()

    def __enter__(self) -> MetaLMClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _iterator(self, request: BatchRequest | None, seed: int, position: int) -> BatchIterator:
        return BatchIterator(self._open, request, seed, position, self._limits)

    def _open(self) -> Transport:
        if self._closed:
            raise RuntimeError("this client is closed")
        return self._transport

    def _limits(self) -> Limits | None:
        if self._described is None:
            self._described = self._open().describe(None)
        return self._described.limits


def _spec(spec: Spec | None, fields: SpecArguments) -> Spec:
    names = [field.name for field in SPEC_FIELDS]
    if unknown := set(fields) - set(names):
        raise TypeError(f"unknown argument {min(unknown)}; a spec has {', '.join(names)}")
    if spec is not None and not isinstance(spec, Spec):
        raise TypeError(f"spec is a {type(spec).__name__}; it must be a Spec or None")
    if spec is None:
        return Spec(**fields)  # type: ignore[arg-type]  # Spec checks profile's text itself
    if fields:
        name = next(iter(fields))
        raise InvalidArgument(name, fields.get(name), "absent where spec is given")
    return spec
