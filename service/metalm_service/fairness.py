"""Turns at the cores, dealt out so that every client gets its share."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Client:
    used_s: float
    """Time it has had, on the scale of `_Turns._now_s`."""
    waiting: deque[threading.Event] = field(default_factory=deque)
    running: int = 0


class FairTurns:
    """At most `slots` holders at a time; of the clients that wait, the one that has had least time
    is next, and its own calls in order.

    So a client with fifty calls has no more of the cores than one that always has one waiting.
    A client that was idle has saved nothing up: it joins at the time of the one served last.
    (Start-time fair queueing: Goyal, Vin, Cheng, SIGCOMM 1996.) Thread-safe.
    """

    def __init__(self, slots: int) -> None:
        self._lock = threading.Lock()
        self._free = slots
        self._now_s = 0.0
        self._clients: dict[str, _Client] = {}

    @contextmanager
    def turn(self, client: str) -> Iterator[None]:
        """Waits for a turn, which lasts as long as the context."""
        turn = threading.Event()
        with self._lock:
            known = self._clients.setdefault(client, _Client(self._now_s))
            known.waiting.append(turn)
            self._deal()
        turn.wait()
        begun_at = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                known.used_s += time.monotonic() - begun_at
                known.running -= 1
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
            chosen.waiting.popleft().set()
            chosen.running += 1
            self._free -= 1

    def _forget(self) -> None:
        """Drops the clients that have nothing left to be told apart by."""
        busy = {
            name: client
            for name, client in self._clients.items()
            if client.running or client.waiting
        }
        # What one has had too much counts as long as somebody else is there.
        self._clients = busy and {
            name: client
            for name, client in self._clients.items()
            if name in busy or client.used_s > self._now_s
        }
