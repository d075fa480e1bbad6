"""The client: random access to samples, and an iterator as a cursor over them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Self, TypedDict, Unpack

from metalm.credentials import Credentials
from metalm.endpoints import Endpoints
from metalm.failover import FailoverTransport
from metalm.forks import keep_in_children
from metalm.iterator import BatchIterator, Fetching
from metalm.schedule import Schedule, merged_ranges
from metalm_proto.batch import Batch
from metalm_proto.description import Description
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

TIMEOUT = Field(
    name="timeout_s",
    kind=float,
    default=30.0,
    lower=0,
    open_lower=True,
    upper=86400,
    doc="seconds of silence that an endpoint may keep, and for which failures are tried again",
)
_PREFETCH = Field(name="prefetch_bytes", default=2**26, lower=0, upper=2**44, doc="")
_COUNT = Field(name="count", lower=0, upper=U64, doc="batches of this rank")
_STOP = Field(name="stop", lower=0, upper=U64, doc="index after the last sample")
_FALLBACKS = (None, "inprocess")


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

    `urls`: one or several of `http(s)://host:port`, `grpc(s)://host:port`, and `inprocess:` for no
    service at all; the bytes are the same. A host's name stands for all its addresses. Requests
    are spread over those that are well, and what fails is asked of another: an iterator loses,
    repeats and reorders nothing.

    `timeout_s`: seconds of silence after which an endpoint counts as failed, and seconds for which
    failures are tried again before Unavailable is raised with what each endpoint said.
    `fallback="inprocess"`: where no endpoint answers, this process generates the same batches,
    until one does again. `hedge=True`: a window later than 95 % of those before it is asked of a
    second endpoint as well (not without prefetching).

    `token`: what the service wants to be shown, as text, or as a `pathlib.Path` to a file that is
    read for each request. It is sent over http:// and grpc:// only to this machine, unless
    `allow_plaintext_token` is set. `ca`: PEM file of the authorities to trust; `cert` and `key`:
    PEM files of this client's own certificate, for a service that asks for one. What cannot be
    trusted, or does not trust, raises Unauthenticated at once, if no other endpoint is well.

    Everywhere, `spec` or its fields as keywords (V, n, l, e, L, mask_ratio, profile, language) say
    what to generate; `seed` names the stream (None draws one); samples are counted by `index`,
    `first`, `start` and `stop`. Raises InvalidArgument for a value out of bounds, and any other
    MetaLMError as a service has cause to. Thread-safe; iterators are not. It may be pickled, and
    after a fork each process has connections of its own.

    >>> with MetaLMClient("inprocess:") as client:
    ...     for x, y in client.batches(V=64, n=10, l=64, e=0.1, L=4096, seed=7, count=2):
    ...         print(x.shape, x.dtype, x[0, :6], y[0, :6])
    (32, 4096) uint8 [25 35  9 38 42 13] [35  9 38 42 13 53]
    (32, 4096) uint8 [16 26  2 29 17 31] [26  2 29 17 31 37]
    """

    def __init__(
        self,
        urls: str | Sequence[str] = "inprocess:",
        *,
        timeout_s: float = TIMEOUT.default,
        fallback: str | None = None,
        hedge: bool = False,
        token: str | os.PathLike[str] | None = None,
        ca: str | os.PathLike[str] | None = None,
        cert: str | os.PathLike[str] | None = None,
        key: str | os.PathLike[str] | None = None,
        allow_plaintext_token: bool = False,
    ) -> None:
        self.urls = (urls,) if isinstance(urls, str) else tuple(urls)
        if not self.urls:
            raise InvalidArgument("urls", urls, "a URL, or several")
        self._timeout_s = TIMEOUT.check(timeout_s)
        if fallback not in _FALLBACKS:
            raise InvalidArgument("fallback", fallback, "None or 'inprocess'")
        self._fallback = fallback
        self._hedge = hedge
        self._credentials = Credentials(
            token=token, ca=ca, cert=cert, key=key, allow_plaintext_token=allow_plaintext_token
        )
        self._closed = False
        self._connect()

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
        """Sample `index` of a stream, as a batch of one: x and y of shape [1, L], of the smallest
        of uint8, uint16 and int32 that holds the vocabulary.

        Raises what `batch` does.
        """
        return self.batch(
            INDEX.check(index),
            batch_size=1,
            seed=seed,
            split=split,
            provenance=provenance,
            spec=spec_of(spec, fields),
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
        """The samples [first, first + batch_size) of a stream: x and y of shape [batch_size, L], of
        the smallest of uint8, uint16 and int32 that holds the vocabulary.

        Raises InvalidArgument for a value out of bounds, LimitExceeded for more than the service
        gives, Unavailable where nothing heals for `timeout_s`, any other MetaLMError; RuntimeError
        if the client is closed, TypeError for a keyword that is no field of a spec.
        """
        request = BatchRequest.single(
            spec=spec_of(spec, fields),
            seed=draw_seed() if seed is None else seed,
            split=split,
            first=first,
            size=BATCH_SIZE.check(batch_size),
            provenance=provenance,
        )
        # To its end: then the connection can be used again.
        (batch,) = self._open().batches(request)
        return batch

    def batches(
        self,
        *,
        batch_size: int = BATCH_SIZE.default,
        seed: int | None = None,
        split: Split | str = Split.TRAIN,
        start: int = 0,
        stop: int | None = None,
        count: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        skip: Iterable[range | tuple[int, int]] = (),
        drop_last: bool = False,
        provenance: bool = False,
        prefetch_bytes: int = _PREFETCH.default,
        spec: Spec | None = None,
        **fields: Unpack[SpecArguments],
    ) -> BatchIterator:
        """Batch after batch from sample `start` on.

        Endless, unless `stop` (index after the last sample) or `count` (batches of this rank) says
        where to end. With `stop` the last batch may be smaller, or missing on some ranks; with
        `drop_last` the run ends after its last whole step. The seed is told by `.seed`.

        `rank`, `world_size`: step k of the run is the samples [start + k W B, start + (k + 1) W B)
        for W ranks of batches of B, of which rank r takes the r-th B; all ranks give the same seed.
        `skip`: ranges of samples that the run steps over, as (first, behind) or `range`.

        `prefetch_bytes`: about as many bytes are fetched in the background, by two threads, before
        they are asked for; 0: none, and no thread. The iterator that is closed, or that nobody has
        any more, ends its threads and requests; one that waits for a service that is silent, within
        `timeout_s`.

        Raises InvalidArgument and TypeError as `batch` does; whatever else may go wrong is raised
        by the iterator's `next`.
        """
        spec = spec_of(spec, fields)
        start, batch_size = START.check(start), BATCH_SIZE.check(batch_size)
        template = BatchRequest(
            spec=spec,
            seed=SEED.check(draw_seed() if seed is None else seed),
            split=SPLIT.check(split),
            start=0,
            stop=batch_size,
            batch_size=batch_size,
            provenance=provenance,
        )
        if stop is not None and count is not None:
            raise InvalidArgument("count", count, "absent where stop is given")
        stop = U64 if stop is None else _STOP.check(stop)
        if stop < start:
            raise InvalidArgument("stop", stop, f"an integer with {start} <= stop <= {U64}")
        schedule = Schedule(
            start=start,
            stop=stop,
            batch_size=batch_size,
            rank=rank,
            world_size=world_size,
            skip=merged_ranges(skip),
            drop_last=drop_last,
        )
        if count is not None:
            schedule = replace(schedule, stop=schedule.at(_COUNT.check(count)))
        return BatchIterator(
            self._open,
            template,
            schedule,
            Fetching(prefetch_bytes=_PREFETCH.check(prefetch_bytes), hedge=self._hedge),
            seed_was_drawn=seed is None,
        )

    def describe(self, spec: Spec | None = None) -> Description:
        """What the generator behind the URLs offers and allows: its version, engine and limits.

        A `spec` is checked by the service and kept in the answer, whose `as_dict` then has its
        dtype and special ids; its `reach` says how far V, n, l and L may go there. Raises
        MetaLMError, and RuntimeError if the client is closed.
        """
        return self._open().describe(spec)

    def close(self) -> None:
        """Closes the connections, and ends what its iterators have under way; from any thread, and
        it may be called again. Whatever else is called afterwards raises RuntimeError."""
        self._closed = True
        if self._process == os.getpid():
            self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        names = ("urls", "_timeout_s", "_fallback", "_hedge", "_credentials", "_closed")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._connect()

    def _connect(self) -> None:
        endpoints = Endpoints(
            self.urls,
            timeout_s=self._timeout_s,
            fallback=self._fallback is not None,
            credentials=self._credentials,
        )
        self._transport = FailoverTransport(endpoints, timeout_s=self._timeout_s)
        keep_in_children(self._transport)
        self._process = os.getpid()

    def _open(self) -> FailoverTransport:
        if self._closed:
            raise RuntimeError("this client is closed")
        if self._process != os.getpid():
            # The parent's connections are not ours to use, nor to close.
            self._connect()
        return self._transport


def spec_of(spec: Spec | None, fields: SpecArguments) -> Spec:
    """The spec that is given as such, or by its fields.

    Raises InvalidArgument for a value out of bounds and where both are given, TypeError for what is
    no Spec and for a field that there is not.
    """
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
