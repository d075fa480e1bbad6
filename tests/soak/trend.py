"""Straight lines through noisy series."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trend:
    """A slope per hour, and its standard error."""

    per_hour: float
    error: float

    @property
    def surely(self) -> float:
        """The slope less three standard errors: noise alone stays below 0."""
        return self.per_hour - 3 * self.error

    def __str__(self) -> str:
        return f"{self.per_hour:+.1f} ± {self.error:.1f}/h"


def trend(times_s: Sequence[float], values: Sequence[float], blocks: int = 24) -> Trend:
    """Ordinary least squares through the medians of `blocks` stretches of equal time.

    Medians of stretches, not single values: neighbours of a series of measurements depend on each
    other, and the error would come out far too small.

    Raises ValueError for fewer than three stretches with values.
    """
    began, ended = times_s[0], times_s[-1]
    width = (ended - began) / blocks or 1.0
    stretches: dict[int, list[tuple[float, float]]] = {}
    for time_s, value in zip(times_s, values, strict=True):
        stretches.setdefault(min(blocks - 1, int((time_s - began) / width)), []).append(
            (time_s, value)
        )
    hours = [statistics.fmean(t for t, _ in points) / 3600 for points in stretches.values()]
    levels = [statistics.median(v for _, v in points) for points in stretches.values()]
    count = len(hours)
    if count < 3:
        raise ValueError(f"{count} stretches have values; a trend needs at least 3")
    middle, level = statistics.fmean(hours), statistics.fmean(levels)
    spread = sum((hour - middle) ** 2 for hour in hours)
    slope = sum((h - middle) * (v - level) for h, v in zip(hours, levels, strict=True)) / spread
    rest = sum((v - level - slope * (h - middle)) ** 2 for h, v in zip(hours, levels, strict=True))
    return Trend(slope, math.sqrt(rest / (count - 2) / spread))


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of the values do not exceed. Raises ValueError for none."""
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
