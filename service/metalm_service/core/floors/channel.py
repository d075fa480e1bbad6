"""What noise does to a token, and what is known of a length before it is heard."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from metalm_proto.spec import Profile, Spec
from metalm_service.core.cost import longest_element
from metalm_service.core.noise import NoiseThresholds
from metalm_service.core.poisson import MINIMUM_LENGTH

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Channel:
    """The noise of an element's token, as its definition has it.

    `kept`: P(x = clean). `wrong`: P(x = v) for each one v of the other symbols. `masked`: P(x = 0).
    `symbols`: A, so that kept + (A - 1) wrong + masked = 1. `elements`: k, as many can be spoken.

    The stream rounds the share of the last replacement down (see the contract, step 5): with the
    defaults it is 7 % rarer than `wrong` says, which no floor shows in its sixth digit. With a
    vocabulary of a few tokens and an error rate near 1 it may be far rarer.
    """

    kept: float
    wrong: float
    masked: float
    symbols: int
    elements: int

    @classmethod
    def of(cls, spec: Spec) -> Channel:
        """From the integers that the generator compares with, so that no noise means none."""
        noise = NoiseThresholds.of(spec)
        masked = noise.mask / 2**32
        wrong = (noise.clean - noise.mask) / 2**32 / (spec.V - 1)
        kept = 1 - noise.clean / 2**32 + (wrong if spec.profile is Profile.METAGYM else 0)
        return cls(kept, wrong, masked, spec.alphabet, spec.usable_elements)

    @property
    def ratio(self) -> float:
        """r: how much likelier a copy makes its own token than any other; inf without errors."""
        return self.kept / self.wrong if self.wrong else math.inf


@dataclass(frozen=True, slots=True, eq=False)
class Lengths:
    """max(3, Poisson(l)), offset by offset: float64 [at least offsets + 1] each.

    `ends`[j] = P(len = j | len >= j). `goes_on`[j] = P(len > j | len >= j).
    """

    ends: Floats
    goes_on: Floats

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, l: float, offsets: int) -> Lengths:
        """For offsets below `offsets`, or as many as a language of the contract can have."""
        count = min(offsets, longest_element(l)) + 2
        ends, goes_on = np.zeros(count), np.ones(count)
        if count + 40 * math.sqrt(l) < l:
            return cls(ends, goes_on)  # to end there is less likely than 1e-300
        # s_j = P(X >= j) / P(X = j) = 1 + l / (j + 1) s_(j+1): nothing is subtracted, and where it
        # overflows, no element ends. What it is taken for far above the mean is soon forgotten.
        inverse = 1.0
        for j in range(longest_element(l) + 60 + int(10 * math.sqrt(l)), MINIMUM_LENGTH, -1):
            above = inverse * (l / (j + 1))
            inverse = 1 + above
            if j < count:
                ends[j] = 1 / inverse
                goes_on[j] = 1 - ends[j] if above > 1 else above / inverse
        three = MINIMUM_LENGTH
        if three < count:
            ends[three] = math.exp(-l) * sum(l**i / math.factorial(i) for i in range(three + 1))
            four = math.exp(-l) * l**4 / 24 * inverse if l < 1 else 1 - ends[three]
            goes_on[three] = min(four, 1.0)
        return cls(ends, goes_on)
