"""The integers of the noise are exact on the values of the doubles."""

from __future__ import annotations

from fractions import Fraction

from metalm import Spec
from metalm_service.core.noise import NoiseThresholds


def test_thresholds_are_floors_of_exact_products() -> None:
    spec = Spec(e=0.1, mask_ratio=0.23283065562066246)
    # In floating point the second product is rounded up to the next integer.
    clean = 429496729
    assert int(spec.mask_ratio * clean) == 100_000_005
    thresholds = NoiseThresholds.of(spec)
    assert (thresholds.clean, thresholds.mask) == (clean, 100_000_004)
    assert thresholds.ratio == Fraction(63 * 2**32) // (clean - 100_000_004)


def test_nothing_to_replace_needs_no_ratio() -> None:
    assert NoiseThresholds.of(Spec(e=0)) == NoiseThresholds(0, 0, 0)
    assert NoiseThresholds.of(Spec(e=0.5, mask_ratio=1)) == NoiseThresholds(2**31, 2**31, 0)
