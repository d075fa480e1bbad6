"""Windows of a run: fetched one after another, or in the background before they are asked for."""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache

from metalm.failover import EndpointStream, FailoverTransport
from metalm.schedule import Schedule, Window
from metalm_proto.batch import Batch, joined
from metalm_proto.errors import Unavailable
from metalm_proto.spec import BatchRequest

Step = tuple[Batch, int]
"""This rank's batch of a step, and the position behind the step."""

LANES = 2
"""Windows that are under way at a time: while one is asked for, another is read."""
_WINDOWS = 4
"""That share the memory: what lies ready, and what is under way."""
_DIRECT_BYTES = 2**28
_MOST_BATCHES = 2**14
_EXIT_S = 2.0


class Plan:
    """The windows of a run from a position on."""

    def __init__(
        self, schedule: Schedule, template: BatchRequest, position: int, window_bytes: int
    ) -> None:
        self.schedule = schedule
        self.batch_bytes = _batch_bytes(template)
        self._template = template
        self._position = schedule.settled(position)
        self._steps = max(1, min(_MOST_BATCHES, window_bytes // self.batch_bytes))

    def following(self) -> Window | None:
        """The next window; None when nothing is left for this rank."""
        if self.schedule.ended(self._position):
            return None
        window = self.schedule.window(self._template, self._position, self._steps)
        self._position = window.stop
        return window if window.requests else None


class Direct:
    """Steps as the caller asks for them."""

    def __init__(
        self,
        transport: FailoverTransport,
        schedule: Schedule,
        template: BatchRequest,
        position: int,
    ) -> None:
        self._steps = self._run(transport, Plan(schedule, template, position, _DIRECT_BYTES))

    def following(self) -> Step | None:
        """The next step, None at the end. Raises MetaLMError."""
        return next(self._steps, None)

    def close(self) -> None:
        self._steps.close()

    @staticmethod
    def _run(transport: FailoverTransport, plan: Plan) -> Generator[Step, None, None]:
        while (window := plan.following()) is not None:
            positions = window.positions(plan.schedule)
            if window.in_parts:
                parts = [batch for part in window.requests for batch in transport.batches(part)]
                yield joined(parts), next(positions)
            else:
                with transport.batches(window.requests[0]) as stream:
                    yield from zip(stream, positions, strict=True)


@dataclass(eq=False, slots=True)
class _Slot:
    """A window's place in the queue, and what fills it: a stream, or two after a hedge."""

    window: Window
    positions: Iterator[int]
    missing: int
    """First sample of the batch that comes next."""
    ready: deque[Step] = field(default_factory=deque)
    streams: list[EndpointStream] = field(default_factory=list)
    whole: bool = False
    error: BaseException | None = None
    waited_since: float | None = None


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
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._queue: deque[_Slot] = deque()
        self._streams: set[EndpointStream] = set()
        self._upcoming = self._plan.following()
        self._held_bytes = 0
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._process = os.getpid()
        _open.add(self)
        _end_all_at_exit()
        with self._lock:
            self._start()

    def following(self) -> Step | None:
        """The next step, None at the end. Raises MetaLMError."""
        with self._arrived:
            while True:
                if self._closed:
                    raise Unavailable("the iterator was closed")
                slot = self._queue[0] if self._queue else None
                if slot is None:
                    if self._upcoming is None:
                        return None
                    self._arrived.wait()
                elif slot.ready:
                    self._held_bytes -= self._plan.batch_bytes
                    self._room.notify_all()
                    slot.waited_since = None
                    return slot.ready.popleft()
                elif slot.whole:
                    self._queue.popleft()
                elif slot.error is not None:
                    raise slot.error
                else:
                    self._wait_for(slot)

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

    def join(self, timeout_s: float) -> None:
        for thread in self._threads:
            thread.join(timeout_s)

    def _start(self) -> None:
        """One more lane, where there is work for it."""
        if self._upcoming is not None and len(self._threads) < LANES:
            thread = threading.Thread(target=self._run_lane, name="metalm-lane", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run_lane(self) -> None:
        while (slot := self._take()) is not None:
            if slot.window.in_parts:
                self._fill_from_parts(slot)
            else:
                self._fill(slot, slot.streams[0])

    def _take(self) -> _Slot | None:
        """The next window, when there is room for it; None when there is nothing left to do."""
        with self._room:
            while True:
                window = self._upcoming
                if self._closed or window is None:
                    return None
                size = window.steps * self._plan.batch_bytes
                if not self._queue or self._held_bytes + size <= self._limit_bytes:
                    break
                self._room.wait()
            self._held_bytes += size
            self._upcoming = self._plan.following()
            request = window.requests[0]
            slot = _Slot(window, window.positions(self._plan.schedule), request.start)
            if not window.in_parts:
                slot.streams.append(self._transport.batches(request))
            self._queue.append(slot)
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
                parts += stream
            if slot.error is not None:
                return
        with self._lock:
            slot.ready.append((joined(parts), slot.window.stop))
            slot.whole = True
            self._arrived.notify_all()

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
            slot.streams.append(stream)
            hedging = threading.Thread(
                target=self._fill, args=(slot, stream), name="metalm-hedge", daemon=True
            )
            self._threads.append(hedging)
            hedging.start()


def _batch_bytes(request: BatchRequest) -> int:
    """Bytes of a batch's arrays; about, with provenance."""
    spec, size = request.spec, request.batch_size
    total = 2 * size * spec.L * spec.dtype.itemsize
    if request.provenance:
        languages = size if spec.language is None else 1
        total += size * spec.L * (4 + 4 + 4 + 1)
        total += languages * spec.n * (4 + int(max(spec.l, 3) + 1) * spec.dtype.itemsize)
    return total


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
