"""One request, answered whatever becomes of the endpoints: another goes on where one stopped.

That is all there is to it, because a batch is a pure function of what was asked for: no endpoint
knows or holds anything of a stream.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from metalm.endpoints import Endpoint, Endpoints
from metalm.transports.base import BatchStream, check_batch
from metalm_proto.batch import Batch
from metalm_proto.description import Description
from metalm_proto.errors import (
    CorruptBatch,
    DeadlineExceeded,
    InternalError,
    LimitExceeded,
    MetaLMError,
    Unauthenticated,
    Unavailable,
    Unreachable,
)
from metalm_proto.spec import BatchRequest, Spec

_FEWEST_TIMES = 20
"""Below this many, a 95th percentile says nothing."""


class FailoverTransport:
    """The endpoints of a client as one door that goes on as long as any of them does.

    What fails is asked again of whichever endpoint is well, from the first batch that is missing.
    When nothing heals for `timeout_s`, Unavailable is raised with what each endpoint said; what
    cannot heal is raised at once. Every batch is verified.
    """

    def __init__(self, endpoints: Endpoints, *, timeout_s: float) -> None:
        self._endpoints = endpoints
        self._timeout_s = timeout_s
        self._times_to_first: deque[float] = deque(maxlen=200)

    def batches(self, request: BatchRequest) -> EndpointStream:
        return self._batches_from(request, None)

    def hedge(self, request: BatchRequest, late: EndpointStream) -> EndpointStream | None:
        """The same from another endpoint than the late one, if the budget of retries allows it.

        Its `next` raises Unavailable if no other is well.
        """
        if late.endpoint is None or self._endpoints.budget.take():
            return None
        return self._batches_from(request, late.endpoint)

    def late_after_s(self) -> float | None:
        """The 95th percentile of the time to the first batch; None while too little is known."""
        times = sorted(self._times_to_first)
        return times[len(times) * 95 // 100] if len(times) >= _FEWEST_TIMES else None

    def describe(self, spec: Spec | None, timeout_s: float | None = None) -> Description:
        call = _Call(self._endpoints, None)
        trouble = _Trouble(self._endpoints, timeout_s or self._timeout_s)
        while True:
            with self._endpoint_of(call, trouble) as endpoint, trouble.watched(endpoint, call):
                answer = endpoint.transport.describe(spec, timeout_s)
                self._endpoints.succeeded(endpoint)
                return answer

    def close(self) -> None:
        self._endpoints.close()

    def _batches_from(self, request: BatchRequest, avoid: Endpoint | None) -> EndpointStream:
        call = _Call(self._endpoints, avoid)
        return EndpointStream(self._batches(request, call), call)

    def _batches(self, request: BatchRequest, call: _Call) -> Generator[Batch, None, None]:
        trouble = _Trouble(self._endpoints, self._timeout_s)
        following: int | None = request.start
        while following is not None:
            with self._endpoint_of(call, trouble) as endpoint, trouble.watched(endpoint, call):
                part = _part(replace(request, start=following), endpoint)
                try:
                    for batch in self._attempt(endpoint, part, call):
                        trouble.over()
                        following = batch.first + request.step
                        yield batch
                except LimitExceeded as error:
                    if not _learnt(endpoint, part, error):
                        raise
                if following >= request.stop:
                    following = None

    def _attempt(
        self, endpoint: Endpoint, request: BatchRequest, call: _Call
    ) -> Generator[Batch, None, None]:
        begun_at = time.monotonic()
        with endpoint.transport.batches(request) as stream:
            call.began(stream)
            for number, (first, size) in enumerate(request.ranges()):
                batch = next(stream, None)
                if batch is None:
                    raise Unavailable(f"the stream ended before sample {first}")
                try:
                    check_batch(batch, request, first, size)
                except CorruptBatch as error:
                    stream.reject(error)
                if number == 0:
                    self._endpoints.succeeded(endpoint)
                    self._times_to_first.append(time.monotonic() - begun_at)
                yield batch
            # Read to its very end, its connection can be used again. All samples are here and
            # verified: what goes wrong now is of no matter.
            with suppress(MetaLMError):
                next(stream, None)

    @contextmanager
    def _endpoint_of(self, call: _Call, trouble: _Trouble) -> Iterator[Endpoint]:
        endpoint = call.endpoint = trouble.endpoint(call)
        try:
            yield endpoint
        finally:
            call.endpoint = None
            self._endpoints.release(endpoint)


class EndpointStream(BatchStream):
    """A stream that knows which endpoint it comes from at the moment."""

    def __init__(self, batches: Generator[Batch, None, None], call: _Call) -> None:
        super().__init__(batches, call.interrupt)
        self._call = call

    @property
    def endpoint(self) -> Endpoint | None:
        return self._call.endpoint


class _Call:
    """What a request that may be ended from another thread is doing just now.

    `avoid`: the endpoint that is not to be asked first.
    """

    def __init__(self, endpoints: Endpoints, avoid: Endpoint | None) -> None:
        self.endpoint: Endpoint | None = None
        self.avoid = avoid
        self._endpoints = endpoints
        self._stream: BatchStream | None = None
        self._ended = False

    def wanted(self) -> bool:
        return not self._ended

    def began(self, stream: BatchStream) -> None:
        self._stream = stream
        if self._ended:
            stream.close()

    def interrupt(self) -> None:
        self._ended = True
        if self._stream is not None:
            self._stream.close()
        self._endpoints.wake()


class _Trouble:
    """Failures of one request since anything went well: how long they may go on, and how soon the
    next attempt may be."""

    def __init__(self, endpoints: Endpoints, timeout_s: float) -> None:
        self._endpoints = endpoints
        self._timeout_s = timeout_s
        self._since: float | None = None
        self._cause: MetaLMError | None = None
        self._defective: set[Endpoint] = set()
        self._silent: set[Endpoint] = set()

    def over(self) -> None:
        if self._since is not None:
            self._since, self._cause = None, None
            self._defective.clear()
            self._silent.clear()

    def endpoint(self, call: _Call) -> Endpoint:
        """The endpoint to ask next. Raises Unavailable when it has gone on for too long."""
        if call.avoid is not None:
            avoid, call.avoid = call.avoid, None
            if (other := self._endpoints.another(avoid)) is None:
                raise Unavailable("no other endpoint is well")
            return other
        give_up_at = (self._since or time.monotonic()) + self._timeout_s
        # What has reached nobody was no load on anybody.
        if self._cause is not None and not isinstance(self._cause, Unreachable):
            self._wait_for_budget(give_up_at, call.wanted)
        try:
            return self._endpoints.acquire(give_up_at, call.wanted)
        except Unavailable as error:
            raise error from self._cause

    @contextmanager
    def watched(self, endpoint: Endpoint, call: _Call) -> Iterator[None]:
        """Takes errors that may heal, and raises others."""
        try:
            yield
        except MetaLMError as error:
            if not call.wanted() or not self._heals(endpoint, error):
                raise
            self._endpoints.failed(endpoint, error)
            self._since = self._since or time.monotonic()
            if isinstance(error, DeadlineExceeded) and endpoint not in self._silent:
                # All the time went by in waiting for this one: the others have had no chance.
                self._silent.add(endpoint)
                self._since = time.monotonic()
            self._cause = error

    def _heals(self, endpoint: Endpoint, error: MetaLMError) -> bool:
        if isinstance(error, InternalError | Unauthenticated):
            # One replica, or what stands before it, may be broken while the others are not, or
            # know less of tokens and certificates than they do.
            self._defective.add(endpoint)
            return self._endpoints.has_others(self._defective)
        return error.retryable

    def _wait_for_budget(self, give_up_at: float, wanted: Callable[[], bool]) -> None:
        """Raises Unavailable when there is no retry to be had until `give_up_at`."""
        while wanted() and (wait_s := self._endpoints.budget.take()):
            left = give_up_at - time.monotonic()
            if left <= 0:
                raise Unavailable(self._endpoints.told()) from self._cause
            self._endpoints.pause(min(wait_s, left), wanted)


def _learnt(endpoint: Endpoint, refused: BatchRequest, error: LimitExceeded) -> bool:
    """Whether less at a time may do. What a server takes depends on the spec: so it is found out by
    asking for half as much, down to a batch."""
    batches = -(-refused.samples // refused.batch_size)
    if error.field != "samples" or batches < 2:
        return False
    endpoint.max_batches = batches // 2
    return True


def _part(request: BatchRequest, endpoint: Endpoint) -> BatchRequest:
    """As much of the request as the endpoint takes at one time."""
    stop = request.start + (endpoint.max_batches - 1) * request.step + request.batch_size
    return replace(request, stop=min(request.stop, stop))
