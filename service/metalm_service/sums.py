"""What has gone through the doors, added up.

A batch adds to nine series. prometheus_client's own have a lock each, and threads that meet there
spent on them a tenth of what the batch itself costs.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections.abc import Iterator
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

_COUNTERS = {
    "batches": "Batches given to the transport.",
    "samples": "Samples in batches given to the transport.",
    "tokens": "Tokens in batches given to the transport; a position of x and y together is one.",
    "sent_bytes": "Bytes of batches given to the transport, as encoded.",
    "generation_cpu_seconds": "Seconds of one core spent on generating.",
}
_HISTOGRAMS = {
    "generation_seconds": "From a batch being asked for to its being there, waits for a turn "
    "included.",
    "send_seconds": "From a batch's being there to the door's being ready for the next; batches "
    "that are sent together share the time.",
}


class Sums(Watcher):
    """Sums and times of the batches of all calls, by door; a collector of prometheus_client's.
    Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._doors = {door: _Door() for door in DOORS}

    def generated(self, call: Call, seconds: float, cpu_s: float) -> None:
        door = self._doors[call.door]
        with self._lock:
            door.generation_cpu_seconds += cpu_s
            if not math.isnan(seconds):
                door.generation_seconds.add(seconds)

    def sent(self, call: Call, batches: int, samples: int, tokens: int, size: int) -> None:
        door = self._doors[call.door]
        with self._lock:
            door.batches += batches
            door.samples += samples
            door.tokens += tokens
            door.sent_bytes += size

    def took(self, call: Call, batches: int, seconds: float) -> None:
        with self._lock:
            self._doors[call.door].send_seconds.add(seconds / batches, batches)

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            doors = deepcopy(self._doors)
        for name, doc in _COUNTERS.items():
            counter = CounterMetricFamily(f"metalm_{name}", doc, labels=("door",))
            for door, sums in doors.items():
                counter.add_metric((door,), getattr(sums, name))
            yield counter
        for name, doc in _HISTOGRAMS.items():
            histogram = HistogramMetricFamily(f"metalm_{name}", doc, labels=("door",))
            for door, sums in doors.items():
                times: _Times = getattr(sums, name)
                histogram.add_metric((door,), times.buckets(), times.sum_s)
            yield histogram


@dataclass(slots=True)
class _Times:
    """How many were at most so long as each of _SECONDS, and longer than the one before; their
    sum."""

    counts: list[int] = field(default_factory=lambda: [0] * len(_SECONDS))
    sum_s: float = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        """That many took so long, each."""
        self.counts[bisect_left(_SECONDS, seconds)] += count
        self.sum_s += count * seconds

    def buckets(self) -> list[tuple[str, float]]:
        """How many were at most so long as each of _SECONDS, as written."""
        up_to = accumulate(self.counts)
        return [(_written(bound), count) for bound, count in zip(_SECONDS, up_to, strict=True)]


@dataclass(slots=True)
class _Door:
    """Of one door, by the names of _COUNTERS and _HISTOGRAMS."""

    batches: int = 0
    samples: int = 0
    tokens: int = 0
    sent_bytes: int = 0
    generation_cpu_seconds: float = 0.0
    generation_seconds: _Times = field(default_factory=_Times)
    send_seconds: _Times = field(default_factory=_Times)


def _written(bound_s: float) -> str:
    return "+Inf" if bound_s == math.inf else str(bound_s)
