"""Places and bytes for requests: all that the server has, and each client's share of them."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from metalm_proto.errors import Overloaded

SOONEST_S = 1.0
LATEST_S = 5.0
"""Those who find no room are told to come again after that, at the soonest and at the latest."""

_STAYS_APART = 4
"""How many stays lie between the times that a client is told who has places and wants more. He
mostly takes up again what becomes free of his own: the others come for where he does not."""

_LATE_S = 4.0
"""Who was turned away and has not asked again so long after his time does so no more."""

_MOST_TOLD = 1024


@dataclass(slots=True)
class _Held:
    """Places and bytes that are taken."""

    requests: int = 0
    bytes: int = 0


@dataclass(slots=True)
class _Waiting:
    """A client that has nothing, and what it wants. `since`: when it was first turned away.
    `comes_at`: the last of the times that it was told."""

    since: float
    comes_at: float
    bytes: int


class _Stays:
    """How long requests hold their places: a mean that forgets, without a time for each. What all
    of them hold together between two ends is what one held, on average (J. D. C. Little, A Proof
    for the Queuing Formula, 1961). `most`: how many may be held; all may end together."""

    _FIRST_S = 0.5
    _FEWEST = 16

    def __init__(self, most: int, now: float) -> None:
        self._weight = 1 / max(self._FEWEST, 2 * most)
        self._mean_s = self._FIRST_S
        self._since_end_s = 0.0
        self._counted_at = now

    def count(self, now: float, held: int) -> None:
        """So many were held until now."""
        self._since_end_s += held * (now - self._counted_at)
        self._counted_at = now

    def ended(self) -> None:
        """One of them is over."""
        self._mean_s += self._weight * (self._since_end_s - self._mean_s)
        self._since_end_s = 0.0

    @property
    def mean_s(self) -> float:
        """At least what it will be once the next one ends."""
        return self._mean_s + self._weight * max(0.0, self._since_end_s - self._mean_s)


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
        self._stays = _Stays(most_requests, clock())
        # Of both, whoever asked last is last. When those come that have places is apart.
        self._waiting: dict[str, _Waiting] = {}
        self._others_come_at: dict[str, float] = {}

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
                raise Overloaded(lack, self._turn_away(client, own, nbytes, len(longer), now))
            self._waiting.pop(client, None)
            self._held_by[client] = own
            for held in (self._held, own):
                held.requests += 1
                held.bytes += nbytes

    def come_again_s(self, client: str) -> float:
        """After how many seconds a client is to come again that could not even be asked what it
        wants. Whoever waits goes on waiting."""
        with self._lock:
            now = self._clock()
            own = self._held_by.get(client, _Held())
            longer = self._waiting_longer(client, now)
            wanted = self._waiting.get(client)
            nbytes = 0 if wanted is None else wanted.bytes
            return self._turn_away(client, own, nbytes, len(longer), now)

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
        for other in [
            name for name, each in self._waiting.items() if each.comes_at + _LATE_S <= now
        ]:
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

    def _turn_away(self, client: str, own: _Held, nbytes: int, longer: int, now: float) -> float:
        """Tells the client after how many seconds to come again: when those who have waited longer
        will have found room, and some while after what it was told last."""
        mean_s = self._stays.mean_s
        between_s = mean_s / max(1, self._held.requests)
        wait_s = SOONEST_S + longer * between_s
        if own.requests:
            last = self._others_come_at.pop(client, -math.inf)
            wait_s = max(wait_s, last - now + _STAYS_APART * mean_s / own.requests)
            wait_s = min(wait_s, LATEST_S)
            self._others_come_at[client] = now + wait_s
            _forget_first(self._others_come_at)
        else:
            # Room is kept for it, and stands idle until one of its requests comes.
            before = self._waiting.pop(client, _Waiting(now, now, 0))
            if before.comes_at > now:
                wait_s = max(wait_s, before.comes_at - now + between_s)
            wait_s = min(wait_s, LATEST_S)
            self._waiting[client] = _Waiting(before.since, now + wait_s, nbytes)
            _forget_first(self._waiting)
        return wait_s


def _forget_first(told: dict[str, Any]) -> None:
    if len(told) > _MOST_TOLD:
        del told[next(iter(told))]


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
