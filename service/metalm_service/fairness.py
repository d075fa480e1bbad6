"""Turns at the service, dealt out so that every client gets its share."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

LEASE_S = 0.005
"""How long a turn lasts while its batches are on their way, and twice as long where nobody else
calls: a reader that is slow must not keep others waiting, and one that is not has them sooner."""
QUANTUM_S = 0.02
"""How long a turn lasts at most, where others wait, before it has to be waited for again."""
_LOOK_EVERY_S = 0.25
_FORGET_EVERY = 64

_log = logging.getLogger(__name__)


class GoneError(Exception):
    """Whoever waited for a turn does not want it any more."""


@dataclass(slots=True)
class _Client:
    used_s: float
    """Time it has had, on the scale of `FairTurns._now_s`."""
    waiting: deque[Turn] = field(default_factory=deque)
    holding: int = 0


def _begun(turn: Turn) -> None:
    """It begins only once."""


class Turn:
    """It is waited for, batches are generated, they are on their way, the turn is over."""

    def __init__(self, turns: FairTurns, client: str, begin: Callable[[Turn], object]) -> None:
        self.client = client
        self.asked_at = time.perf_counter()
        """When it was first asked for, by `time.perf_counter`."""
        self.begin = begin
        """Called with it when it begins, by whoever made room for it."""
        self.begun_at = 0.0
        self.lent_until = math.inf
        self._turns = turns

    def pause(self, wanted: Callable[[], bool]) -> None:
        """Lets others have their turn if this one has lasted long. Raises GoneError once it is not
        `wanted`."""
        if time.monotonic() - self.begun_at > QUANTUM_S:
            self._turns.again(self, wanted)

    def lend(self) -> None:
        """The batches are on their way: the turn ends when they are there, or after LEASE_S."""
        self._turns.lend(self)

    def end(self) -> None:
        """May be called again, from any thread."""
        self._turns.end(self)

    def withdraw(self) -> bool:
        """Whether it was still waited for; it will not begin then."""
        return self._turns.withdraw(self)


class _Gate:
    """What a thread waits at until its turn begins."""

    def __init__(self) -> None:
        # A bare lock: an Event is made of two and a list, and it is one for every batch.
        self._closed = threading.Lock()
        self._closed.acquire()

    def open(self, turn: Turn) -> None:
        self._closed.release()

    def wait(self, turn: Turn, wanted: Callable[[], bool]) -> None:
        """Raises GoneError once the turn is not `wanted`."""
        while not self._closed.acquire(timeout=_LOOK_EVERY_S):
            if not wanted():
                if not turn.withdraw():  # it has just begun
                    turn.end()
                raise GoneError


class FairTurns:
    """At most `slots` turns at a time; of the clients that wait, the one that has had least time
    is next, and its own batches in order.

    So a client with fifty streams gets no more than one with a single stream, where that one takes
    what it can have, and a long batch keeps nobody waiting. A client that was idle has saved
    nothing up: it joins at the time that each of the others has had by then. (Fair queueing after
    Demers, Keshav, Shenker, SIGCOMM 1989, and Goyal, Vin, Cheng, SIGCOMM 1996.) Thread-safe.
    """

    def __init__(self, slots: int) -> None:
        self._lock = threading.Lock()
        self._free = slots
        self._now_s = 0.0
        self._clients: dict[str, _Client] = {}
        self._held: set[Turn] = set()
        self._dealt: list[Turn] = []
        """Turns that begin as soon as the lock is given back."""
        self._ended = 0
        # As all leases are of one length, they end in the order in which they began.
        self._leases: deque[Turn] = deque()
        self._lent = threading.Condition(self._lock)
        # Whether the thread that ends leases waits to be told, and whether it was needed since it
        # last looked.
        self._idle, self._wanted = False, False
        threading.Thread(target=self._end_leases, name="turns", daemon=True).start()

    def ask(self, client: str, begin: Callable[[Turn], object]) -> Turn:
        """A turn, which may be waited for. `begin` is called with it once it has come, from any
        thread and perhaps before this returns; it must not take long. Whoever has the turn ends
        it."""
        turn = Turn(self, client, begin)
        with self._dealing():
            self._known(client).waiting.append(turn)
        return turn

    def take(self, client: str, wanted: Callable[[], bool] = lambda: True) -> Turn:
        """Waits for a turn, which whoever has it ends. Raises GoneError once it is not `wanted`."""
        gate = _Gate()
        turn = self.ask(client, gate.open)
        gate.wait(turn, wanted)
        return turn

    def again(self, turn: Turn, wanted: Callable[[], bool]) -> None:
        """Gives the turn up and waits for it anew, if anybody else waits."""
        gate = _Gate()
        with self._dealing():
            if not self._anybody_waits():
                return
            self._take_back(turn)
            turn.begin = gate.open
            self._known(turn.client).waiting.appendleft(turn)
        gate.wait(turn, wanted)

    def lend(self, turn: Turn) -> None:
        with self._dealing():
            turn.lent_until = time.monotonic() + LEASE_S
            self._leases.append(turn)

    def end(self, turn: Turn) -> None:
        with self._dealing():
            self._end(turn)

    def withdraw(self, turn: Turn) -> bool:
        with self._lock:
            client = self._clients.get(turn.client)
            if client is None or turn not in client.waiting:
                return False
            client.waiting.remove(turn)
            return True

    @contextmanager
    def _dealing(self) -> Iterator[None]:
        """Around whatever may make room for turns. They begin without the lock: whoever is told may
        want it."""
        with self._lock:
            self._end_due()
            try:
                yield
            finally:
                self._deal()
                self._watch_leases()
                dealt, self._dealt = self._dealt, []
        for turn in dealt:
            # It may keep what was made in the turn alive, and a lease outlasts that.
            begin, turn.begin = turn.begin, _begun
            try:
                begin(turn)
            except Exception:
                # Not the fault of whoever made room, and the others are to begin.
                _log.exception("a turn of %s could not begin", turn.client)
                with self._lock:
                    self._end(turn)
                    self._deal()
                    dealt += self._dealt
                    self._dealt = []

    def _known(self, client: str) -> _Client:
        return self._clients.setdefault(client, _Client(self._now_s))

    def _anybody_waits(self) -> bool:
        return any(client.waiting for client in self._clients.values())

    def _watch_leases(self) -> None:
        """Has leases ended in time. Where nobody waits they are ended with the next call, and no
        thread is woken for every batch."""
        if self._leases and self._anybody_waits():
            self._wanted = True
            if self._idle:
                self._idle = False
                self._lent.notify()

    def _end_leases(self) -> None:
        while True:
            with self._lock:
                # It looks now and then, and goes on for a while: most leases end before they are
                # over, and it would be woken for each.
                self._idle, self._wanted = not self._wanted, False
                self._lent.wait(None if self._idle else LEASE_S)
            with self._dealing():
                pass  # those that are due end

    def _end_due(self) -> None:
        """Ends the leases that are over."""
        now = time.monotonic()
        while self._leases and (
            self._leases[0] not in self._held or self._leases[0].lent_until <= now
        ):
            self._end(self._leases.popleft())

    def _end(self, turn: Turn) -> None:
        if turn in self._held:
            self._take_back(turn)
            self._ended += 1
            if self._ended % _FORGET_EVERY == 0 or not self._held:
                self._forget()

    def _take_back(self, turn: Turn) -> None:
        self._held.remove(turn)
        self._free += 1
        client = self._clients[turn.client]
        seconds = min(time.monotonic(), turn.lent_until) - turn.begun_at
        client.used_s += seconds
        # What each of those that are here would have had of it. Were it only the time of the one
        # that is served, ever new clients would hold up an old one for ever.
        active = sum(1 for each in self._clients.values() if each.waiting or each.holding)
        self._now_s += seconds / max(1, active)
        client.holding -= 1

    def _deal(self) -> None:
        while self._free:
            waiting = [client for client in self._clients.values() if client.waiting]
            if not waiting:
                return
            chosen = min(waiting, key=lambda client: client.used_s)
            self._now_s = max(self._now_s, chosen.used_s)
            turn = chosen.waiting.popleft()
            turn.begun_at = time.monotonic()
            self._held.add(turn)
            self._dealt.append(turn)
            chosen.holding += 1
            self._free -= 1

    def _forget(self) -> None:
        """Drops the clients that have nothing left to be told apart by."""
        busy = any(client.holding or client.waiting for client in self._clients.values())
        # What one has had too much counts as long as somebody else is there.
        self._clients = {
            name: client
            for name, client in self._clients.items()
            if client.holding or client.waiting or (busy and client.used_s > self._now_s)
        }
