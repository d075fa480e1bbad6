"""The exact distribution function of an element's length."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_ONE = 2**32
_LISTED_BELOW = 2**32 - 1
_NEGLIGIBLE = 2**16
MINIMUM_LENGTH = 3


@dataclass(frozen=True, slots=True, eq=False)
class LengthTable:
    """F_k = floor(2^32 P(Poisson(l) <= k)), listed while F_k < 2^32 - 1.

    `zeros`: how many leading F_k are 0; `values`: uint32, the others in order. (At l = 2^20 a
    million zeros precede a few ten thousand values.)
    """

    zeros: int
    values: NDArray[np.uint32]

    @property
    def maximum(self) -> int:
        """No element is longer than this."""
        return max(MINIMUM_LENGTH, self.zeros + len(self.values))

    def lengths(self, words: NDArray[np.uint32]) -> NDArray[np.int32]:
        """len_i = max(3, number of listed F_k <= word_i)."""
        listed = np.searchsorted(self.values, words, side="right") + self.zeros
        return np.maximum(MINIMUM_LENGTH, listed).astype(np.int32)


@lru_cache(maxsize=64)
def length_table(mean: float) -> LengthTable:
    """The table for Poisson(mean), 0 < mean <= 2^20; milliseconds, some 30 at l = 2^20."""
    bits = 128
    while (table := _table(Fraction(mean), bits)) is None:
        bits *= 2
    return table


def _table(mean: Fraction, bits: int) -> LengthTable | None:
    """The table from terms known to `bits` binary digits, or None if that leaves a floor open.

    The terms are relative to the largest one, so no exponential is taken: they are integers that
    bracket mean^k / k! / (largest) from both sides, and what is cut off in both tails is bounded
    by a geometric series.
    """
    top = mean.numerator // mean.denominator
    low, high = {top: 1 << bits}, {top: 1 << bits}
    # Upwards: each term is the one before times mean / k.
    k = top
    while high[k] > _NEGLIGIBLE or k + 1 <= mean:
        k += 1
        divisor = mean.denominator * k
        low[k] = low[k - 1] * mean.numerator // divisor
        high[k] = -(-high[k - 1] * mean.numerator // divisor)
    ratio = mean / (k + 1)
    tail_above = int(high[k] * ratio / (1 - ratio)) + 1
    last = k
    # Downwards: times k / mean.
    k = top
    while k > 0 and (high[k] > _NEGLIGIBLE or k == mean):
        low[k - 1] = low[k] * k * mean.denominator // mean.numerator
        high[k - 1] = -(-high[k] * k * mean.denominator // mean.numerator)
        k -= 1
    tail_below = int(high[k] * k / (mean - k)) + 1 if k else 0
    first = k
    total_low = sum(low.values())
    total_high = sum(high.values()) + tail_above + tail_below
    if tail_below << 32 >= total_low:
        return None
    values: list[int] = []
    sum_low, sum_high = 0, tail_below
    for k in range(first, last + 1):
        sum_low, sum_high = sum_low + low[k], sum_high + high[k]
        lowest = (sum_low << 32) // total_high
        highest = min((sum_high << 32) // total_low, _ONE)
        if lowest >= _LISTED_BELOW:
            break
        if lowest != highest:
            return None
        values.append(lowest)
    zeros = first + values.count(0)
    return LengthTable(zeros, np.array([value for value in values if value], np.uint32))
