"""Turns: who is next, for ever so many that wait."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from metalm_service.fairness import FairTurns, Turn


class Clock:
    """Time that passes when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)


class Crowd:
    """Calls that wait for turns, and take them one by one as the test ends the one before."""

    def __init__(self, turns: FairTurns, clock: Clock) -> None:
        self._turns, self._clock = turns, clock
        self._threads: list[threading.Thread] = []
        self._begun = threading.Semaphore(0)
        self._end = threading.Semaphore(0)
        self.served: list[str] = []

    def join(self, client: str, seconds: float) -> None:
        """One more call of a client, whose turn will take so long."""
        before = self._waiting()
        thread = threading.Thread(target=self._run, args=(client, seconds), daemon=True)
        self._threads.append(thread)
        thread.start()
        while self._waiting() == before:
            pass

    def serve(self, count: int) -> list[str]:
        """Who had the next turns."""
        first = len(self.served)
        for _ in range(count):
            assert self._begun.acquire(timeout=30)
            self._end.release()
        while len(self.served) < first + count:
            pass
        return self.served[first:]

    def _waiting(self) -> int:
        """Calls that wait or run."""
        with self._turns._lock:
            clients = self._turns._clients.values()
            return sum(len(client.waiting) + client.holding for client in clients)

    def _run(self, client: str, seconds: float) -> None:
        turn = self._turns.take(client)
        self._begun.release()
        self._end.acquire()
        self._clock.now_s += seconds
        turn.end()
        self.served.append(client)


@contextmanager
def crowd(monkeypatch: pytest.MonkeyPatch) -> Iterator[Crowd]:
    yield Crowd(FairTurns(1), Clock(monkeypatch))


def test_many_calls_of_one_client_do_not_hold_up_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with crowd(monkeypatch) as calls:
        for _ in range(50):
            calls.join("greedy", 1.0)
        for _ in range(5):
            calls.join("modest", 1.0)
        served = calls.serve(12)
        assert 4 <= served.count("modest") <= 6
        calls.serve(43)


def test_long_turns_count_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    with crowd(monkeypatch) as calls:
        for _ in range(10):
            calls.join("long", 10.0)
        for _ in range(40):
            calls.join("short", 1.0)
        served = calls.serve(33)
        assert 2 <= served.count("long") <= 4
        calls.serve(17)


def test_who_was_idle_has_saved_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with crowd(monkeypatch) as calls:
        for _ in range(30):
            calls.join("early", 1.0)
        calls.serve(10)
        for _ in range(20):
            calls.join("late", 1.0)
        assert 8 <= calls.serve(20).count("late") <= 12
        calls.serve(20)


def test_a_batch_on_its_way_keeps_nobody_waiting() -> None:
    turns = FairTurns(1)
    slow = turns.take("slow")
    slow.lend()
    turns.take("next").end()
    # Its end comes too late to be anybody's.
    slow.end()
    one = turns.take("one")
    waiting = threading.Thread(target=lambda: turns.take("other").end(), daemon=True)
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    one.end()
    waiting.join(30)
    assert not waiting.is_alive()


def test_nobody_is_remembered_for_ever() -> None:
    turns = FairTurns(2)
    for number in range(1000):
        turns.take(f"client {number}").end()
    assert not turns._clients


def test_a_turn_that_is_asked_for_begins_when_there_is_room() -> None:
    turns = FairTurns(1)
    begun: list[Turn] = []
    one = turns.ask("one", begun.append)
    assert begun == [one]
    others = [turns.ask("other", begun.append) for _ in range(3)]
    assert begun == [one]
    one.end()
    assert begun == [one, others[0]]
    assert others[1].withdraw()
    assert not others[1].withdraw()
    others[1].end()
    others[0].end()
    assert begun == [one, others[0], others[2]]
    assert not others[2].withdraw()
    others[2].end()
    assert not turns._clients


def test_who_is_told_of_a_turn_may_end_it() -> None:
    turns = FairTurns(1)
    ended: list[Turn] = []

    def end(turn: Turn) -> None:
        ended.append(turn)
        turn.end()

    first = turns.take("one")
    asked = [turns.ask(f"client {number}", end) for number in range(100)]
    first.end()
    assert set(ended) == set(asked)


def test_a_lease_ends_in_time_though_nobody_calls() -> None:
    turns = FairTurns(1)
    for _ in range(20):
        slow = turns.take("slow")
        slow.lend()
        begun: queue.Queue[Turn] = queue.Queue()
        turns.ask("next", begun.put)
        begun.get(timeout=30).end()


def test_turns_that_cannot_begin_keep_nobody_waiting() -> None:
    turns = FairTurns(1)

    def fail(turn: Turn) -> None:
        raise RuntimeError(f"no thread for {turn.client}")

    first = turns.take("one")
    for number in range(1000):
        turns.ask(f"client {number % 7}", fail)
    begun: queue.Queue[Turn] = queue.Queue()
    turns.ask("last", begun.put)
    first.end()
    begun.get(timeout=30).end()
    assert not turns._clients
