"""What becomes of one request: who is asked for it now, and what has gone wrong with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from metalm.endpoint import Endpoint
from metalm.endpoints import Endpoints
from metalm.transports.base import BatchStream
from metalm_proto.errors import (
    DeadlineExceeded,
    InternalError,
    MetaLMError,
    Unauthenticated,
    Unavailable,
    Unreachable,
)


class Call:
    """What a request that may be ended from another thread is doing just now.

    `avoid`: the endpoint that is not to be asked first. `in_trouble`: its last attempt failed.
    """

    def __init__(self, endpoints: Endpoints, avoid: Endpoint | None) -> None:
        self.endpoint: Endpoint | None = None
        self.avoid = avoid
        self.in_trouble = False
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


class Trouble:
    """Failures of one request since anything went well: how long they may go on, and how soon the
    next attempt may be."""

    def __init__(self, endpoints: Endpoints, timeout_s: float) -> None:
        self._endpoints = endpoints
        self._timeout_s = timeout_s
        self._since: float | None = None
        self._cause: MetaLMError | None = None
        self._verdict: MetaLMError | None = None
        """What does not heal, said by one of the `defective`."""
        self._defective: set[Endpoint] = set()
        self._silent: set[Endpoint] = set()
        self._paused = False

    def over(self) -> None:
        if self._since is not None:
            self._since, self._cause, self._verdict = None, None, None
            self._defective.clear()
            self._silent.clear()

    def reader_paused(self) -> None:
        """Whoever reads the attempt that goes on has taken nothing for long."""
        self._paused = True

    def endpoint(self, call: Call) -> Endpoint:
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
    def watched(self, endpoint: Endpoint, call: Call) -> Iterator[None]:
        """Takes errors of an attempt that may heal, and raises others."""
        self._paused = False
        try:
            yield
        except MetaLMError as error:
            if not call.wanted() or not self._heals(endpoint, error):
                raise
            if self._paused and isinstance(error, Unavailable):
                return
            call.in_trouble = True
            self._endpoints.failed(endpoint, error)
            verdict = self._verdict
            if verdict is not None and verdict is not error and not self._has_others():
                raise verdict from error
            self._since = self._since or time.monotonic()
            if isinstance(error, DeadlineExceeded) and endpoint not in self._silent:
                # All the time went by in waiting for this one: the others have had no chance.
                self._silent.add(endpoint)
                self._since = time.monotonic()
            self._cause = error

    def _heals(self, endpoint: Endpoint, error: MetaLMError) -> bool:
        """Whether to ask again, here or elsewhere."""
        if isinstance(error, InternalError | Unauthenticated):
            # One replica, or what stands before it, may be broken while the others are not, or
            # know less of tokens and certificates than they do.
            self._defective.add(endpoint)
            self._verdict = error
            return self._has_others()
        return error.retryable

    def _has_others(self) -> bool:
        return self._endpoints.has_others(self._defective)

    def _wait_for_budget(self, give_up_at: float, wanted: Callable[[], bool]) -> None:
        """Raises Unavailable when there is no retry to be had until `give_up_at`."""
        budget = self._endpoints.budget
        while wanted() and not budget.try_take():
            left = give_up_at - time.monotonic()
            if left <= 0:
                raise Unavailable(self._endpoints.told()) from self._cause
            self._endpoints.pause(min(budget.wait_s(), left), wanted)
