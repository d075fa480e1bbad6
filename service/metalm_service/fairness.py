"""Turns at the service, dealt out so that every client gets its share."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field

LEASE_S = 0.005
"""How long a turn lasts at most while a batch is on its way: a reader that is slow must not keep
others waiting, and one that is not has it sooner."""


@dataclass(slots=True)
class _Client:
    used_s: float
    """Time it has had, on the scale of `FairTurns._now_s`."""
    waiting: deque[Turn] = field(default_factory=deque)
    holding: int = 0


class Turn:
    """One batch's: it is waited for, the batch is generated, it is on its way, the turn is over."""

    def __init__(self, turns: FairTurns, client: str) -> None:
        self.client = client
        self.begun = threading.Event()
        self.begun_at = 0.0
        self._turns = turns

    def lend(self) -> None:
        """The batch is on its way: the turn ends when it is there, or after LEASE_S."""
        self._turns.lend(self)

    def end(self) -> None:
        """May be called again, from any thread."""
        self._turns.end(self)


class FairTurns:
    """At most `slots` turns at a time; of the clients that wait, the one that has had least time
    is next, and its own batches in order.

    So a client with fifty streams gets no more than one with a single stream, where that one takes
    what it can have. A client that was idle has saved nothing up: it joins at the time of the one
    served last. (Start-time fair queueing: Goyal, Vin, Cheng, SIGCOMM 1996.) Thread-safe.
    """

    def __init__(self, slots: int) -> None:
        self._lock = threading.Lock()
        self._free = slots
        self._now_s = 0.0
        self._clients: dict[str, _Client] = {}
        self._held: set[Turn] = set()
        # As all leases are of one length, they end in the order in which they began.
        self._leases: deque[tuple[float, Turn]] = deque()
        self._lent = threading.Condition(self._lock)
        self._idle = True
        threading.Thread(target=self._end_leases, name="turns", daemon=True).start()

    def take(self, client: str) -> Turn:
        """Waits for a turn; whoever has it ends it."""
        turn = Turn(self, client)
        with self._lock:
            known = self._clients.setdefault(client, _Client(self._now_s))
            known.waiting.append(turn)
            self._deal()
        turn.begun.wait()
        return turn

    def lend(self, turn: Turn) -> None:
        with self._lock:
            self._leases.append((time.monotonic() + LEASE_S, turn))
            if self._idle:
                self._lent.notify()

    def end(self, turn: Turn) -> None:
        with self._lock:
            self._end(turn)

    def _end_leases(self) -> None:
        with self._lock:
            while True:
                while self._leases and self._leases[0][1] not in self._held:
                    self._leases.popleft()
                self._idle = not self._leases
                left_s = self._leases[0][0] - time.monotonic() if self._leases else None
                if left_s is None or left_s > 0:
                    self._lent.wait(left_s)
                else:
                    self._end(self._leases.popleft()[1])

    def _end(self, turn: Turn) -> None:
        if turn in self._held:
            self._held.remove(turn)
            client = self._clients[turn.client]
            client.used_s += time.monotonic() - turn.begun_at
            client.holding -= 1
            self._free += 1
            self._deal()
            self._forget()

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
            turn.begun.set()
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
