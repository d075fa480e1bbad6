"""Windows of a run, fetched in the background before they are asked for."""

from __future__ import annotations

import _thread
import atexit
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache

from metalm.failover import EndpointStream, FailoverTransport
from metalm.forks import keep_in_children
from metalm.schedule import Schedule, Window
from metalm.windows import Plan, Step
from metalm_proto.batch import Batch, joined
from metalm_proto.errors import Unavailable
from metalm_proto.spec import BatchRequest

LANES = 2
"""Windows that are under way at a time: while one is asked for, another is read."""
_WINDOWS = 4
"""That share the memory: what lies ready, and what is under way."""
_LOOK_EVERY_S = 1.0
_EXIT_S = 2.0


@dataclass(eq=False, slots=True)
class _Slot:
    """A window's place in the queue, and what fills it: a stream, or two after a hedge."""

    window: Window
    positions: Iterator[int]
    missing: int
    """First sample of the batch that comes next."""
    ready: deque[Step] = field(default_factory=deque)
    streams: list[EndpointStream] = field(default_factory=list)
    begun: bool = False
    whole: bool = False
    error: BaseException | None = None
    waited_since: float | None = None

    def flows(self) -> bool:
        """Its first batch has come, and nothing is wrong with those that are to follow."""
        return self.begun and not any(stream.in_trouble for stream in self.streams)


class Prefetcher:
    """Steps of which some `limit_bytes` are fetched ahead, in order.

    Holds nothing of whoever reads it, so that an iterator that nobody has any more can close it.
    """

    def __init__(
        self,
        transport: FailoverTransport,
        schedule: Schedule,
        template: BatchRequest,
        position: int,
        *,
        limit_bytes: int,
        hedge: bool,
    ) -> None:
        self._transport = transport
        self._plan = Plan(schedule, template, position, limit_bytes // _WINDOWS)
        self._limit_bytes = limit_bytes
        self._hedge = hedge
        # Reentrant: the collector runs anywhere, and what it finds may close.
        self._lock = threading.RLock()
        self._arrived = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._queue: deque[_Slot] = deque()
        self._streams: set[EndpointStream] = set()
        self._upcoming = self._plan.following()
        self._held_bytes = 0
        self._lanes: list[threading.Thread] = []
        self._hedges: list[threading.Thread] = []
        self._failure: BaseException | None = None
        """Of a lane, not of a request."""
        self._closed = False
        self._process = os.getpid()
        _open.add(self)
        _end_all_at_exit()
        keep_in_children(self)
        transport.read_by(self)
        with self._lock:
            self._start()

    def following(self) -> Step | None:
        """The next step, None at the end. Raises MetaLMError."""
        with self._arrived:
            while True:
                if self._closed:
                    raise Unavailable("the iterator was closed")
                slot = self._queue[0] if self._queue else None
                if slot is not None and slot.ready:
                    return self._taken_from(slot)
                if slot is not None and slot.error is not None:
                    raise slot.error
                if self._failure is not None:
                    raise self._failure
                if slot is None:
                    if self._upcoming is None:
                        return None
                    self._arrived.wait()
                else:
                    self._wait_for(slot)

    def leave(self) -> None:
        """Closes it for whom the collector calls: in any thread, whatever locks that one holds."""
        if os.getpid() == self._process:
            # Takes no lock, as `threading.Thread` does.
            _thread.start_new_thread(self.close, ())

    def close(self) -> None:
        """Ends what is under way, from any thread; does nothing in a process that was forked."""
        if os.getpid() != self._process:
            return
        with self._lock:
            self._closed = True
            streams = list(self._streams)
            self._queue.clear()
            self._arrived.notify_all()
            self._room.notify_all()
        for stream in streams:
            stream.close()

    interrupt = close

    def join(self, timeout_s: float) -> None:
        for thread in (*self._lanes, *self._hedges):
            thread.join(timeout_s)

    def _taken_from(self, slot: _Slot) -> Step:
        step = slot.ready.popleft()
        slot.waited_since = None
        if slot.whole and not slot.ready:
            self._queue.popleft()
        self._held_bytes -= self._plan.batch_bytes
        # Not for every step: lanes that are woken in vain cost as much as the step.
        if self._upcoming is None or self._may_begin(self._upcoming):
            self._room.notify_all()
        return step

    def _start(self) -> None:
        """One more lane, where there is work for it."""
        if self._upcoming is None or len(self._lanes) >= LANES:
            return
        lane = threading.Thread(target=self._run_lane, name="metalm-lane", daemon=True)
        try:
            lane.start()
        except RuntimeError:
            # No thread is to be had. One lane does it, too.
            if not self._lanes:
                raise
        else:
            self._lanes.append(lane)

    def _run_lane(self) -> None:
        with self._failures_kept():
            while (slot := self._take()) is not None:
                if slot.window.in_parts:
                    self._fill_from_parts(slot)
                else:
                    self._fill(slot, slot.streams[0])

    @contextmanager
    def _failures_kept(self) -> Iterator[None]:
        """What goes wrong in a thread of ours is for the one who waits for it."""
        try:
            yield
        except BaseException as error:
            with self._lock:
                self._failure = self._failure or error
                self._arrived.notify_all()
                self._room.notify_all()

    def _take(self) -> _Slot | None:
        """The next window, when there is room for it; None when there is nothing left to do."""
        slot = None
        with self._room, self._failures_kept():
            while slot is None and (window := self._upcoming) is not None:
                if self._closed or self._failure is not None:
                    break
                if self._may_begin(window):
                    slot = self._queued(window)
                else:
                    # It may be closed between the look at it and the wait, by the collector.
                    self._room.wait(_LOOK_EVERY_S)
        return slot

    def _may_begin(self, window: Window) -> bool:
        if not self._queue:
            return True
        if self._held_bytes + self._bytes_of(window) > self._limit_bytes:
            return False
        # Where services have too little room for all, what is asked for next must not take what
        # is wanted first.
        return all(slot.flows() for slot in self._queue)

    def _bytes_of(self, window: Window) -> int:
        return window.steps * self._plan.batch_bytes

    def _queued(self, window: Window) -> _Slot:
        request = window.requests[0]
        slot = _Slot(window, window.positions(self._plan.schedule), request.start)
        if not window.in_parts:
            slot.streams.append(self._transport.batches(request))
        self._upcoming = self._plan.following()
        self._held_bytes += self._bytes_of(window)
        self._queue.append(slot)
        # Whoever waits for the next step hears of the slot that it comes from, and hedges if that
        # one is late.
        self._arrived.notify_all()
        self._start()
        return slot

    def _fill(self, slot: _Slot, stream: EndpointStream) -> None:
        """Moves what is missing from a stream to its slot; what came from another is dropped."""
        request = slot.window.requests[0]
        with self._reading(slot, stream):
            for batch in stream:
                with self._lock:
                    if self._closed or slot.whole:
                        return
                    self._begin(slot)
                    if batch.first != slot.missing:
                        continue
                    slot.ready.append((batch, next(slot.positions)))
                    slot.missing += request.step
                    slot.whole = slot.missing >= request.stop
                    self._arrived.notify_all()

    def _fill_from_parts(self, slot: _Slot) -> None:
        parts: list[Batch] = []
        for request in slot.window.requests:
            stream = self._transport.batches(request)
            slot.streams.append(stream)
            with self._reading(slot, stream):
                for part in stream:
                    self._begin(slot)
                    parts.append(part)
            if slot.error is not None:
                return
        with self._lock:
            slot.ready.append((joined(parts), slot.window.stop))
            slot.whole = True
            self._arrived.notify_all()

    def _begin(self, slot: _Slot) -> None:
        with self._lock:
            if not slot.begun:
                slot.begun = True
                self._room.notify_all()

    @contextmanager
    def _reading(self, slot: _Slot, stream: EndpointStream) -> Iterator[None]:
        """While a thread reads the stream: whoever closes the prefetcher closes it, and what goes
        wrong is for the one who waits for the slot."""
        with self._lock:
            self._streams.add(stream)
            closed = self._closed
        if closed:
            stream.close()
        failure: BaseException | None = None
        try:
            yield
        except BaseException as error:
            failure = error
        finally:
            with self._lock:
                self._streams.discard(stream)
                slot.streams.remove(stream)
                if not slot.streams:  # else the other may still do it
                    slot.error = failure
                late = list(slot.streams) if slot.whole else []
                self._arrived.notify_all()
            for other in (stream, *late):
                other.close()

    def _wait_for(self, slot: _Slot) -> None:
        """Waits, or asks another endpoint as well if it has taken too long. Holds the lock."""
        late_after_s = None
        if self._hedge and len(slot.streams) == 1 and not slot.window.in_parts:
            late_after_s = self._transport.late_after_s()
        if late_after_s is None:
            self._arrived.wait()
            return
        slot.waited_since = slot.waited_since or time.monotonic()
        left = slot.waited_since + late_after_s - time.monotonic()
        if left > 0:
            self._arrived.wait(left)
            return
        rest = replace(slot.window.requests[0], start=slot.missing)
        slot.waited_since = None
        if (stream := self._transport.hedge(rest, slot.streams[0])) is not None:
            self._start_hedge(slot, stream)

    def _start_hedge(self, slot: _Slot, stream: EndpointStream) -> None:
        hedge = threading.Thread(
            target=self._run_hedge, args=(slot, stream), name="metalm-hedge", daemon=True
        )
        slot.streams.append(stream)
        try:
            hedge.start()
        except RuntimeError:  # no thread is to be had
            slot.streams.remove(stream)
        else:
            self._hedges = [*filter(threading.Thread.is_alive, self._hedges), hedge]

    def _run_hedge(self, slot: _Slot, stream: EndpointStream) -> None:
        with self._failures_kept():
            self._fill(slot, stream)


_open: weakref.WeakSet[Prefetcher] = weakref.WeakSet()


def _end_all() -> None:
    """Threads inside of libraries that the interpreter takes apart can crash it."""
    ending = list(_open)
    for prefetcher in ending:
        prefetcher.close()
    for prefetcher in ending:
        prefetcher.join(_EXIT_S)


@lru_cache(maxsize=1)
def _end_all_at_exit() -> None:
    atexit.register(_end_all)
