"""Places and bytes for requests: all that the server has, and each client's share of them."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from metalm_proto.errors import Overloaded

SOONEST_S = 1.0
LATEST_S = 5.0
"""Those who find no room are told to come again after that, at the soonest and at the latest."""

_STAYS_APART = 4
"""How many stays lie between what one client is told. Who has places and wants more mostly takes
up again what becomes free of his own: the others of his come for where he does not."""

_LATE_S = 4.0
"""Who was turned away and has not asked again so long after his time does so no more."""

_MOST_WAITING = 1024


@dataclass(slots=True)
class _Held:
    """Places and bytes that are taken."""

    requests: int = 0
    bytes: int = 0


@dataclass(slots=True)
class _Waiting:
    """A client that has nothing, and what it wants. `since`: when it was first turned away; after
    `until` it does not come any more."""

    since: float
    until: float
    bytes: int


class _Stays:
    """How long requests hold their places: a mean that forgets, without a time for each. What all
    of them hold together between two ends is what one held, on average (J. D. C. Little, A Proof
    for the Queuing Formula, 1961)."""

    _WEIGHT = 1 / 16
    _FIRST_S = 0.5

    def __init__(self, now: float) -> None:
        self._mean_s = self._FIRST_S
        self._since_end_s = 0.0
        self._counted_at = now

    def count(self, now: float, held: int) -> None:
        """So many were held until now."""
        self._since_end_s += held * (now - self._counted_at)
        self._counted_at = now

    def ended(self) -> None:
        """One of them is over."""
        self._mean_s += self._WEIGHT * (self._since_end_s - self._mean_s)
        self._since_end_s = 0.0

    @property
    def mean_s(self) -> float:
        """At least what it will be once the next one ends."""
        return self._mean_s + self._WEIGHT * max(0.0, self._since_end_s - self._mean_s)


class Places:
    """At most `most_requests` at a time and, if it is more than one, of `most_bytes` together; of
    both a client has `share` at most, though always one request.

    Who was turned away and has nothing waits from then on, until he has asked again and found room.
    For each one that has waited longer than who asks now, room is kept: else he came in vain time
    after time, as others are quicker to ask again. Half of all is never kept, so that it works
    meanwhile (of the bytes less, where one request needs more).

    When to come again is told one after the other, as places become free: a refusal costs a
    millisecond, and many that come again together, in vain, are a load of their own. Thread-safe.
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
        self._stays = _Stays(clock())
        # Of both, whoever asked last is last.
        self._waiting: dict[str, _Waiting] = {}
        self._told_last: dict[str, float] = {}

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
            now = self._clock()
            self._stays.count(now, self._held.requests)
            own = self._held_by.get(client, _Held())
            longer = self._waiting_longer(client, now)
            lack = (
                _lack("the server", self._held, self._most, nbytes)
                or _lack("this client", own, self._share, nbytes)
                or self._lack_beside(longer, nbytes)
            )
            if lack:
                wait_s = self._appointed(client, own, len(longer), now)
                if not own.requests:
                    self._turn_away(client, nbytes, now, wait_s)
                raise Overloaded(lack, wait_s)
            self._waiting.pop(client, None)
            self._held_by[client] = own
            for held in (self._held, own):
                held.requests += 1
                held.bytes += nbytes

    def come_again_s(self, client: str) -> float:
        """After how many seconds a client is to come again that could not even be asked what it
        wants."""
        with self._lock:
            now = self._clock()
            own = self._held_by.get(client, _Held())
            return self._appointed(client, own, len(self._waiting_longer(client, now)), now)

    def give_back(self, client: str, nbytes: int) -> None:
        """What `take` gave."""
        with self._lock:
            self._stays.count(self._clock(), self._held.requests)
            self._stays.ended()
            own = self._held_by[client]
            for held in (self._held, own):
                held.requests -= 1
                held.bytes -= nbytes
            if not own.requests:
                del self._held_by[client]

    def _waiting_longer(self, client: str, now: float) -> list[int]:
        """What those want, in bytes, who have waited longer than this client."""
        if not self._waiting:
            return []
        for other in [name for name, each in self._waiting.items() if each.until <= now]:
            del self._waiting[other]
        own = self._waiting.get(client)
        return [
            other.bytes
            for other in self._waiting.values()
            if own is None or other.since < own.since
        ]

    def _lack_beside(self, longer: list[int], nbytes: int) -> str:
        """Why there is no room beside what is kept for those who have waited longer; or nothing."""
        if not longer:
            return ""
        requests = min(len(longer), (self._most.requests + 1) // 2)
        nbytes_kept = min(sum(longer), max(self._most.bytes // 2, *longer))
        return _lack(
            "with what is kept for those who have waited longer, the server",
            _Held(self._held.requests + requests, self._held.bytes + nbytes_kept),
            self._most,
            nbytes,
        )

    def _appointed(self, client: str, own: _Held, longer: int, now: float) -> float:
        """After how many seconds a client is to come again: when those who have waited longer will
        have found room, and some while after what it was told last."""
        mean_s = self._stays.mean_s
        after_last = self._told_last.pop(client, -math.inf) - now
        wait_s = min(
            LATEST_S,
            max(
                SOONEST_S + longer * mean_s / max(1, self._held.requests),
                after_last + _STAYS_APART * mean_s / max(1, own.requests),
            ),
        )
        self._told_last[client] = now + wait_s
        if len(self._told_last) > _MOST_WAITING:
            del self._told_last[next(iter(self._told_last))]
        return wait_s

    def _turn_away(self, client: str, nbytes: int, now: float, wait_s: float) -> None:
        before = self._waiting.pop(client, None)
        since = now if before is None else before.since
        self._waiting[client] = _Waiting(since, now + wait_s + _LATE_S, nbytes)
        if len(self._waiting) > _MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]


def _lack(whose: str, held: _Held, most: _Held, nbytes: int) -> str:
    """Why there is no room beside what is held; nothing if there is."""
    if held.requests >= most.requests:
        return f"{whose} has {held.requests} requests, as many as may be at one time"
    # One request is always allowed.
    if held.requests and held.bytes + nbytes > most.bytes:
        return (
            f"the request needs {nbytes} bytes, and {whose} has {held.bytes} of {most.bytes} "
            "in flight"
        )
    return ""
