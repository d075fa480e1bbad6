"""What has gone through the doors, added up.

A batch adds to nine series. prometheus_client's own have a lock each, and threads that meet there
spent on them a tenth of what the batch itself costs.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

from metalm_service.calls import DOORS, Call, Watcher

_SECONDS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, math.inf),
)


class Sums(Watcher):
    """Sums and times of the batches of all calls, by door; a collector of prometheus_client's.
    Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._doors = {door: _Door() for door in DOORS}

    def generated(self, call: Call, seconds: float, cpu_s: float) -> None:
        door = self._doors[call.door]
        with self._lock:
            door.cpu_s += cpu_s
            if not math.isnan(seconds):
                door.generation.add(seconds)

    def sent(self, call: Call, samples: int, tokens: int, size: int) -> None:
        door = self._doors[call.door]
        with self._lock:
            door.batches += 1
            door.samples += samples
            door.tokens += tokens
            door.bytes += size

    def took(self, call: Call, seconds: float) -> None:
        with self._lock:
            self._doors[call.door].send.add(seconds)

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            doors = deepcopy(self._doors)
        yield _counter(
            "batches",
            "Batches given to the transport.",
            {name: door.batches for name, door in doors.items()},
        )
        yield _counter(
            "samples",
            "Samples in batches given to the transport.",
            {name: door.samples for name, door in doors.items()},
        )
        yield _counter(
            "tokens",
            "Tokens in batches given to the transport; a position of x and y together is one.",
            {name: door.tokens for name, door in doors.items()},
        )
        yield _counter(
            "sent_bytes",
            "Bytes of batches given to the transport, as encoded.",
            {name: door.bytes for name, door in doors.items()},
        )
        yield _counter(
            "generation_cpu_seconds",
            "Seconds of one core spent on generating.",
            {name: door.cpu_s for name, door in doors.items()},
        )
        yield _histogram(
            "generation_seconds",
            "From a batch being asked for to its being there, waits for a turn included.",
            {name: door.generation for name, door in doors.items()},
        )
        yield _histogram(
            "send_seconds",
            "From a batch's being there to the door's being ready for the next.",
            {name: door.send for name, door in doors.items()},
        )


@dataclass(slots=True)
class _Times:
    """How many were at most so long as each of _SECONDS, and longer than the one before; their
    sum."""

    counts: list[int] = field(default_factory=lambda: [0] * len(_SECONDS))
    sum_s: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(_SECONDS, seconds)] += 1
        self.sum_s += seconds


@dataclass(slots=True)
class _Door:
    batches: int = 0
    samples: int = 0
    tokens: int = 0
    bytes: int = 0
    cpu_s: float = 0.0
    generation: _Times = field(default_factory=_Times)
    send: _Times = field(default_factory=_Times)


def _counter(name: str, doc: str, values: Mapping[str, float]) -> Metric:
    """`values`: by door."""
    counter = CounterMetricFamily(f"metalm_{name}", doc, labels=("door",))
    for door, value in values.items():
        counter.add_metric((door,), value)
    return counter


def _histogram(name: str, doc: str, times: Mapping[str, _Times]) -> Metric:
    """`times`: by door."""
    histogram = HistogramMetricFamily(f"metalm_{name}", doc, labels=("door",))
    for door, known in times.items():
        up_to = accumulate(known.counts)
        buckets = [(_written(s), count) for s, count in zip(_SECONDS, up_to, strict=True)]
        histogram.add_metric((door,), buckets, known.sum_s)
    return histogram


def _written(bound_s: float) -> str:
    return "+Inf" if bound_s == math.inf else str(bound_s)
