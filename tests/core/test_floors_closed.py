"""The closed forms against sums over everything that can be heard."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from metalm_proto.spec import Profile, Spec
from metalm_service.core.floors import closed
from metalm_service.core.floors.channel import Channel, Lengths

SPECS = [
    Spec(V=4, e=0.3),
    Spec(V=3, e=0.9, mask_ratio=0.1),  # r < 1
    Spec(V=2, e=0.4, mask_ratio=0),
    Spec(V=4, e=0.3, profile=Profile.METAGYM),
    Spec(V=3, e=0.3, mask_ratio=1),  # r = inf
    Spec(V=3, e=0),
    Spec(V=2, n=2, e=0.3, profile=Profile.METAGYM),  # a single symbol
]


def enumerated(spec: Spec, copies: int) -> float:
    """H(clean | noisy copies) by listing them all."""
    profile, V, e, m = spec.profile, spec.V, spec.e, spec.mask_ratio
    wrong = e * (1 - m) / (V - 1)
    kept = 1 - e if profile is Profile.METALM else 1 - e + wrong
    symbols = range(1, spec.alphabet + 1)

    def p(noisy: tuple[int, ...], clean: int) -> float:
        return math.prod(e * m if x == 0 else kept if x == clean else wrong for x in noisy)

    total = 0.0
    for noisy in product((0, *symbols), repeat=copies):
        joint = np.array([p(noisy, clean) for clean in symbols]) / len(symbols)
        joint = joint[joint > 0]
        total -= (joint * np.log(joint / joint.sum())).sum()
    return total


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_cost_of_a_token_after_copies(spec: Spec) -> None:
    found = closed.copies(spec, 6)
    for c in range(6):
        assert found[c] == pytest.approx(enumerated(spec, c), abs=1e-9)


@pytest.mark.parametrize("spec", [Spec(), Spec(V=1000, e=0.5), Spec(V=3, e=0.8)], ids=str)
def test_the_first_two_costs_have_formulas(spec: Spec) -> None:
    channel, h = Channel.of(spec), closed.copies(spec, 40)
    q = (channel.symbols - 1) * channel.wrong / (1 - channel.masked)
    entropy = -q * math.log(q) - (1 - q) * math.log(1 - q)
    one = (1 - channel.masked) * (entropy + q * math.log(channel.symbols - 1))
    assert h[0] == pytest.approx(math.log(channel.symbols), rel=1e-12)
    assert h[1] == pytest.approx(channel.masked * h[0] + one, rel=1e-12)
    assert (np.diff(h) <= 1e-9).all()


def test_costs_of_a_huge_vocabulary() -> None:
    spec = Spec(V=2**31 - 3)
    h = closed.copies(spec, 8)
    assert h[0] == pytest.approx(math.log(spec.V), rel=1e-7)
    assert (np.diff(h) < 0).all()
    assert 0 < closed.learning_cost(spec) < 10 * 65 * spec.n * h[0]


@pytest.mark.parametrize("l", [1e-9, 0.3, 1.0, 3.0, 12.5, 64.0, 700.0, 5000.0])
def test_hazards_are_those_of_the_poisson_distribution(l: float) -> None:
    lengths = Lengths.of(l, 2**30)
    poisson = stats.poisson(l)
    j = np.arange(4, len(lengths.ends))
    here, later = poisson.logpmf(j), poisson.logsf(j - 1)
    known = np.isfinite(here) & (later > -600) & (here > -600)
    np.testing.assert_allclose(np.log(lengths.ends[j][known]), (here - later)[known], atol=1e-6)
    assert lengths.ends[3] == pytest.approx(poisson.cdf(3), rel=1e-9, abs=1e-300)
    assert lengths.goes_on[3] == pytest.approx(poisson.sf(3), rel=1e-6)
    assert (lengths.ends[:3] == 0).all()
    np.testing.assert_allclose(lengths.ends + lengths.goes_on, 1, rtol=1e-12)


def test_hazards_are_the_same_however_many_are_asked_for() -> None:
    for l in (3.0, 64.0, 2.0**20):
        few, many = Lengths.of(l, 50), Lengths.of(l, 400)
        np.testing.assert_allclose(many.ends[: len(few.ends)], few.ends, rtol=1e-12)


@pytest.mark.parametrize("l", [1e-9, 2.0, 32.0])
def test_lengths_have_the_mean_and_entropy_of_their_distribution(l: float) -> None:
    k = np.arange(400)
    p = stats.poisson(l).pmf(k)
    p[3] += p[:3].sum()
    p[:3] = 0
    spec = Spec(l=l)
    assert closed.mean_length(spec) == pytest.approx(p @ k)
    assert closed.length_entropy(spec) == pytest.approx(stats.entropy(p), abs=1e-9)


def test_horizons() -> None:
    assert [closed.horizon(Spec(n=n, l=l)) for n, l in [(5, 32), (10, 32), (10, 64)]] == [
        990,
        1980,
        3900,
    ]
