"""Places and bytes for requests: all that the server has, and each client's share of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from metalm_proto.errors import Overloaded

COME_AGAIN_S = 2.0
"""What those are told who find no room. A refusal costs a millisecond: many that ask again every
second would be a load of their own."""

_STILL_WAITS_S = 3 * COME_AGAIN_S
"""Who was turned away and has not asked again by then does so no more."""

_MOST_WAITING = 1024


@dataclass(slots=True)
class _Held:
    """Places and bytes that are taken."""

    requests: int = 0
    bytes: int = 0


@dataclass(slots=True)
class _Waiting:
    """A client that has nothing, and what it wants. `since`: when it was first turned away."""

    since: float
    asked_at: float
    bytes: int


class Places:
    """At most `most_requests` at a time and, if it is more than one, of `most_bytes` together; of
    both a client has `share` at most, though always one request.

    Who was turned away and has nothing waits from then on, until he has asked again and found room.
    For each one that has waited longer than who asks now, room is kept: else he came in vain time
    after time, as others are quicker to ask again. Half of all is never kept, so that it works
    meanwhile (of the bytes less, where one request needs more). Thread-safe.
    """

    def __init__(
        self,
        most_requests: int,
        most_bytes: int,
        share: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = _Held(most_requests, most_bytes)
        self._share = _Held(max(1, int(share * most_requests)), int(share * most_bytes))
        self._clock = clock
        self._lock = threading.Lock()
        self._held = _Held()
        self._held_by: dict[str, _Held] = {}
        # Whoever asked last is last.
        self._waiting: dict[str, _Waiting] = {}

    @property
    def requests(self) -> int:
        """How many places are taken."""
        return self._held.requests

    @property
    def bytes(self) -> int:
        """How many bytes are taken."""
        return self._held.bytes

    def take(self, client: str, nbytes: int) -> None:
        """A place and bytes for a request. Raises Overloaded."""
        with self._lock:
            own = self._held_by.get(client, _Held())
            try:
                _check("the server", self._held, self._most, nbytes)
                _check("this client", own, self._share, nbytes)
                self._check_kept(client, nbytes)
            except Overloaded:
                if not own.requests:
                    self._turn_away(client, nbytes)
                raise
            self._waiting.pop(client, None)
            self._held_by[client] = own
            for held in (self._held, own):
                held.requests += 1
                held.bytes += nbytes

    def give_back(self, client: str, nbytes: int) -> None:
        """What `take` gave."""
        with self._lock:
            own = self._held_by[client]
            for held in (self._held, own):
                held.requests -= 1
                held.bytes -= nbytes
            if not own.requests:
                del self._held_by[client]

    def _check_kept(self, client: str, nbytes: int) -> None:
        """Raises Overloaded where the room that is left is kept for others."""
        now = self._clock()
        while self._waiting:
            oldest = next(iter(self._waiting))
            if now - self._waiting[oldest].asked_at < _STILL_WAITS_S:
                break
            del self._waiting[oldest]
        own = self._waiting.get(client)
        longer = [
            other.bytes
            for other in self._waiting.values()
            if own is None or other.since < own.since
        ]
        if not longer:
            return
        requests = min(len(longer), (self._most.requests + 1) // 2)
        nbytes_kept = min(sum(longer), max(self._most.bytes // 2, *longer))
        _check(
            "with what is kept for those who have waited longer, the server",
            _Held(self._held.requests + requests, self._held.bytes + nbytes_kept),
            self._most,
            nbytes,
        )

    def _turn_away(self, client: str, nbytes: int) -> None:
        now = self._clock()
        before = self._waiting.pop(client, None)
        since = now if before is None else before.since
        self._waiting[client] = _Waiting(since, now, nbytes)
        if len(self._waiting) > _MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]


def _check(whose: str, held: _Held, most: _Held, nbytes: int) -> None:
    """Raises Overloaded if there is no room beside what is held."""
    if held.requests >= most.requests:
        raise Overloaded(
            f"{whose} has {held.requests} requests, as many as may be at one time", COME_AGAIN_S
        )
    # One request is always allowed.
    if held.requests and held.bytes + nbytes > most.bytes:
        raise Overloaded(
            f"the request needs {nbytes} bytes, and {whose} has {held.bytes} of {most.bytes} "
            "in flight",
            COME_AGAIN_S,
        )
