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

PATIENCE_S = 5.0
"""A client that was turned away for so long has the next room, before those who were served."""

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
    """A client that has nothing, and what it wants."""

    since: float
    asked_at: float
    bytes: int

    def is_gone(self, now: float) -> bool:
        return now - self.asked_at >= _STILL_WAITS_S

    def is_patient(self, now: float) -> bool:
        return now - self.since > PATIENCE_S and not self.is_gone(now)


class Places:
    """At most `most_requests` at a time and, if it is more than one, of `most_bytes` together; of
    both a client has `share` at most, though always one request.

    Room goes to whoever asks when there is some. Who always comes in vain, as others are quicker to
    ask again, has what he wants kept free for him after PATIENCE_S. Thread-safe.
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
        patient = {name: each for name, each in self._waiting.items() if each.is_patient(now)}
        if not patient or client in patient:
            return
        # For one at a time: what is kept is idle until he comes.
        first = min(patient.values(), key=lambda each: each.since)
        _check(
            "who has waited longest is kept a place; the server",
            _Held(self._held.requests + 1, self._held.bytes + first.bytes),
            self._most,
            nbytes,
        )

    def _turn_away(self, client: str, nbytes: int) -> None:
        now = self._clock()
        before = self._waiting.pop(client, None)
        since = now if before is None or before.is_gone(now) else before.since
        self._waiting[client] = _Waiting(since, now, nbytes)
        oldest = next(iter(self._waiting))
        if self._waiting[oldest].is_gone(now) or len(self._waiting) > _MOST_WAITING:
            del self._waiting[oldest]


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
