"""One request, answered whatever becomes of the endpoints: another goes on where one stopped.

That is all there is to it, because a batch is a pure function of what was asked for: no endpoint
knows or holds anything of a stream.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Protocol

from metalm.endpoint import Endpoint, Kind
from metalm.endpoints import Endpoints
from metalm.transports.base import BatchStream, check_batch
from metalm.trouble import Call, Trouble
from metalm_proto.batch import Batch
from metalm_proto.description import Description
from metalm_proto.errors import (
    CorruptBatch,
    LimitExceeded,
    MetaLMError,
    Unavailable,
)
from metalm_proto.spec import BatchRequest, Spec

_FEWEST_TIMES = 20
"""Below this many, a 95th percentile says nothing."""
_PAUSE_S = 1.0
"""A server ends the stream of a reader that takes nothing; with a longer pause, that is no wonder.
(A server that is gone is found out by the next attempt.)"""


class Reader(Protocol):
    """Whoever reads streams of a `FailoverTransport` one after another."""

    def interrupt(self) -> None:
        """Ends what it reads, and its threads, from any thread."""
        ...


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
        self._readers: weakref.WeakSet[Reader] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._closed = False

    def batches(self, request: BatchRequest) -> EndpointStream:
        return self._batches_from(request, None)

    def hedge(self, request: BatchRequest, late: EndpointStream) -> EndpointStream | None:
        """The same from another endpoint than the late one, if the budget of retries allows it.

        Its `next` raises Unavailable if no other is well.
        """
        if late.endpoint is None or not self._endpoints.budget.try_take():
            return None
        return self._batches_from(request, late.endpoint)

    def late_after_s(self) -> float | None:
        """The 95th percentile of the time to the first batch; None while too little is known."""
        times = sorted(self._times_to_first)
        return times[len(times) * 95 // 100] if len(times) >= _FEWEST_TIMES else None

    def describe(self, spec: Spec | None, timeout_s: float | None = None) -> Description:
        call = Call(self._endpoints, None)
        trouble = Trouble(self._endpoints, timeout_s or self._timeout_s)
        while True:
            with self._endpoint_of(call, trouble) as endpoint, trouble.watched(endpoint, call):
                begun_at = time.monotonic()
                answer = endpoint.transport.describe(spec, timeout_s)
                self._endpoints.succeeded(endpoint, begun_at)
                return answer

    def read_by(self, reader: Reader) -> None:
        """Has the reader interrupted when this is closed."""
        with self._lock:
            self._readers.add(reader)
            closed = self._closed
        if closed:
            reader.interrupt()

    def close(self) -> None:
        """Ends all that is under way, from any thread; may be called again."""
        with self._lock:
            self._closed = True
            readers = list(self._readers)
        for reader in readers:
            reader.interrupt()
        self._endpoints.close()

    def _batches_from(self, request: BatchRequest, avoid: Endpoint | None) -> EndpointStream:
        call = Call(self._endpoints, avoid)
        return EndpointStream(self._batches(request, call), call)

    def _batches(self, request: BatchRequest, call: Call) -> Generator[Batch, None, None]:
        trouble = Trouble(self._endpoints, self._timeout_s)
        kind = (request.spec, request.batch_size, request.provenance)
        following: int | None = request.start
        while following is not None:
            with self._endpoint_of(call, trouble) as endpoint, trouble.watched(endpoint, call):
                batches = self._endpoints.batches_taken(endpoint, kind)
                part = _part(replace(request, start=following), batches)
                try:
                    for batch in self._attempt(endpoint, part, call):
                        trouble.over()
                        call.in_trouble = False
                        following = batch.first + request.step
                        given_at = time.monotonic()
                        yield batch
                        if time.monotonic() - given_at > _PAUSE_S:
                            trouble.reader_paused()
                except LimitExceeded as error:
                    if not self._learnt(endpoint, kind, part, error):
                        raise
                if following >= request.stop:
                    following = None

    def _attempt(
        self, endpoint: Endpoint, request: BatchRequest, call: Call
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
                    self._endpoints.succeeded(endpoint, begun_at)
                    self._times_to_first.append(time.monotonic() - begun_at)
                yield batch
            # Read to its very end, its connection can be used again. All samples are here and
            # verified: what goes wrong now is of no matter.
            with suppress(MetaLMError):
                next(stream, None)

    def _learnt(
        self, endpoint: Endpoint, kind: Kind, refused: BatchRequest, error: LimitExceeded
    ) -> bool:
        """Whether less at a time may do. What a server takes depends on the spec: so it is found
        out by asking for half as much, down to a batch."""
        batches = -(-refused.samples // refused.batch_size)
        if error.field != "samples" or batches < 2:
            return False
        self._endpoints.takes_less(endpoint, kind, batches // 2)
        return True

    @contextmanager
    def _endpoint_of(self, call: Call, trouble: Trouble) -> Iterator[Endpoint]:
        endpoint = call.endpoint = trouble.endpoint(call)
        try:
            yield endpoint
        finally:
            call.endpoint = None
            self._endpoints.release(endpoint)


class EndpointStream(BatchStream):
    """A stream that knows which endpoint it comes from at the moment.

    Who owns what, here: the stream owns the generator `FailoverTransport._batches`, which one
    thread at a time runs, under the lock that `BatchStream` has for that. The generator owns a
    `Trouble`, which no other thread sees, and while it asks an endpoint, a place there
    (`Endpoint.in_flight`) and the door's own stream. The `Call` is shared with the threads that
    close or look: its attributes are set once or by the generator alone, and read without a lock.
    What is known of an `Endpoint` belongs to `Endpoints`, and is behind that one's lock.
    """

    def __init__(self, batches: Generator[Batch, None, None], call: Call) -> None:
        super().__init__(batches, call.interrupt)
        self._call = call

    @property
    def endpoint(self) -> Endpoint | None:
        return self._call.endpoint

    @property
    def in_trouble(self) -> bool:
        """Its last attempt failed, and another has given nothing yet."""
        return self._call.in_trouble


def _part(request: BatchRequest, batches: int) -> BatchRequest:
    """At most so many batches of the request."""
    stop = request.start + (batches - 1) * request.step + request.batch_size
    return replace(request, stop=min(request.stop, stop))
