"""The integers that turn a word into noise."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from metalm_proto.spec import Spec


@dataclass(frozen=True, slots=True)
class NoiseThresholds:
    """A word w >= `clean` keeps its token, w < `mask` masks it, and any other is scaled by
    `ratio` to one of the V - 1 replacements. Exact on the values of the spec's doubles."""

    clean: int
    mask: int
    ratio: int

    @classmethod
    @lru_cache(maxsize=256)
    def of(cls, spec: Spec) -> NoiseThresholds:
        clean = int(Fraction(spec.e) * 2**32)
        mask = int(Fraction(spec.mask_ratio) * clean)
        replaced = clean - mask
        return cls(clean, mask, (spec.V - 1) * 2**32 // replaced if replaced else 0)
