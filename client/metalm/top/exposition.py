"""Metrics in Prometheus' text format, and what two readings of them say together."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

MEDIA_TYPE = "text/plain"
_LINE = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"')

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Reading:
    """The series of a replica at one moment. `at_s`: on the monotonic clock."""

    series: Mapping[tuple[str, Labels], float]
    at_s: float = field(default_factory=time.monotonic)

    @classmethod
    def parse(cls, text: str) -> Reading:
        """From the text format; lines that are none of it are passed over."""
        series = {}
        for line in text.splitlines():
            found = _LINE.fullmatch(line)
            if found is not None:
                try:
                    value = float(found[3])
                except ValueError:
                    continue
                series[found[1], frozenset(_LABEL.findall(found[2] or ""))] = value
        return cls(series)

    def value(self, name: str, **labels: str) -> float | None:
        """The sum of the series of a name that have these labels; None if there are none."""
        wanted = labels.items()
        found = [value for (n, has), value in self.series.items() if n == name and wanted <= has]
        return sum(found) if found else None

    def label(self, name: str, label: str) -> str:
        """The value of a label in the series of a name that is 1."""
        for (n, labels), value in self.series.items():
            if n == name and value == 1:
                return dict(labels).get(label, "")
        return ""


@dataclass(frozen=True, slots=True)
class Change:
    """What happened between two readings of one replica."""

    before: Reading
    after: Reading

    def rate(self, name: str) -> float | None:
        """Growth a second of the counters of a name; None if there are none."""
        seconds = self.after.at_s - self.before.at_s
        grown = [self._grown(key) for key in self.after.series if key[0] == name]
        return sum(grown) / seconds if grown and seconds > 0 else None

    def quantile(self, name: str, quantile: float) -> float | None:
        """A quantile of what a histogram was told meanwhile, in its unit; None if it was nothing.

        Within a bucket values are taken to be spread evenly, as Prometheus does it.
        """
        buckets: dict[float, float] = {}
        for key in self.after.series:
            if key[0] == f"{name}_bucket":
                bound = float(dict(key[1]).get("le", "nan"))
                buckets[bound] = buckets.get(bound, 0.0) + self._grown(key)
        total = buckets.get(float("inf"), 0.0)
        if not total:
            return None
        lower, below = 0.0, 0.0
        for bound in sorted(buckets):
            if buckets[bound] >= quantile * total:
                if bound == float("inf"):
                    return lower
                inside = buckets[bound] - below
                return lower + (bound - lower) * (quantile * total - below) / inside
            lower, below = bound, buckets[bound]
        return None

    def _grown(self, key: tuple[str, Labels]) -> float:
        after, before = self.after.series[key], self.before.series.get(key, 0.0)
        # A counter that is lower than before belongs to a process that is newer.
        return after - before if after >= before else after
