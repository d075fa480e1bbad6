"""The floors on samples of the stream.

Seeds are fixed, so a test that passes once passes always. Where a bound is a number of standard
errors, the share of correct programs is given that would have failed on a seed drawn at random.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("numba")

from metalm_proto.spec import Profile, Spec, Split
from metalm_service.core.floors import LADDER, closed, losses, reference, targets
from metalm_service.core.floors.streams import stream

Z = 4.9
"""Two-sided: a correct program exceeds it with probability 1e-6."""

PUBLISHED = [
    Spec(V=64, n=n, l=l, e=0.1, L=4096, profile=profile)
    for n, l in [(5, 32), (10, 32), (10, 64)]
    for profile in (Profile.METAGYM, Profile.METALM)
]
APART = Spec(V=16, n=20, l=8, e=0.2, L=4096)
SAMPLES = 32


@cache
def measured(spec: Spec, names: tuple[str, ...] = LADDER) -> dict[str, NDArray[np.float64]]:
    found = losses(spec, 20, Split.TEST, 0, SAMPLES, names)
    return {name: loss.astype(np.float64) for name, loss in found.items()}


def z_of(means: NDArray[np.float64]) -> float:
    """Of independent samples' means, against 0."""
    return float(means.mean() / (means.std(ddof=1) / np.sqrt(len(means))))


@pytest.mark.parametrize("name", ["known", "genie", "bayes-20"])
@pytest.mark.parametrize(
    "spec",
    [
        Spec(V=6, n=3, l=4, e=0.25, mask_ratio=0.5, L=120),
        Spec(V=7, n=4, l=4, e=0.25, mask_ratio=0.5, L=120, profile=Profile.METAGYM),
    ],
    ids=str,
)
def test_targets_are_as_surprising_as_they_should_be(spec: Spec, name: str) -> None:
    """-ln p(y[t]) - H(p[t]) has mean 0 at each position where p is the true conditional of what it
    is given. For known and genie the sums are martingales; a window forgets, so its are not, but
    their mean is 0 as well. Samples are independent. (Noise whose rates the stream rounds little.)
    """
    spec = replace(spec, L=60) if name == "bayes-20" else spec
    count = 24
    excess = np.empty(count)
    loss = losses(spec, 4, Split.TEST, 0, count, [name])[name]
    for index in range(count):
        p = reference.distributions(spec, 4, Split.TEST, index, name)
        logs = np.log(p, where=p > 0, out=np.zeros_like(p))
        excess[index] = (loss[index] + (p * logs).sum(axis=1)).sum()
    assert abs(z_of(excess)) < Z


@pytest.mark.parametrize("spec", PUBLISHED, ids=str)
def test_the_floor_is_exact_at_the_published_settings(spec: Spec) -> None:
    """Genie and greedy agree, sequence by sequence and bit for bit, on all of these 32, and greedy
    was never in doubt."""
    doubts = np.ones(SAMPLES)
    found = losses(spec, 20, Split.TEST, 0, SAMPLES, ["genie", "greedy"], doubts=doubts)
    np.testing.assert_array_equal(found["genie"], found["greedy"])
    assert doubts.max() < 1e-9


def test_elsewhere_it_is_a_bracket() -> None:
    """At (V, n, l, e) = (16, 20, 8, 0.2) some 0.66 to 0.68 nats."""
    found = losses(APART, 20, Split.TEST, 0, 64, ["genie", "greedy"])
    genie, greedy = (found[name].mean(axis=1, dtype=np.float64) for name in ("genie", "greedy"))
    assert (greedy > genie).sum() > 50
    # One-sided, 1e-6.
    assert z_of(greedy - genie) > 4.75
    assert 0.005 < (greedy - genie).mean() < 0.03
    assert 0.6 < genie.mean() < greedy.mean() < 0.75


@pytest.mark.parametrize("spec", [PUBLISHED[1], PUBLISHED[4], APART], ids=str)
def test_who_knows_more_loses_less(spec: Spec) -> None:
    """On average; a step that is not one of these would be 4.75 standard errors of the paired
    difference apart: 1e-6 a step."""
    found = measured(spec)
    means = {name: loss.mean(axis=1) for name, loss in found.items()}
    order = ["known", "genie", "bayes-1024", "bayes-256", "bayes-128", "content-free"]
    for better, worse in [*pairwise(order), ("greedy", "vote"), ("vote", "last-copy")]:
        assert z_of(means[worse] - means[better]) > 4.75, (better, worse)
    assert (means["greedy"] >= means["genie"]).all()
    assert z_of(means["uniform"] - means["content-free"]) > 4.75
    assert z_of(means["content-free"] - means["suffix"]) > 4.75


@pytest.mark.parametrize("spec", PUBLISHED, ids=str)
def test_content_free_is_its_closed_form(spec: Spec) -> None:
    """Within 0.1 % and 4.9 standard errors; the start of a sample is not the long run."""
    mean = measured(spec)["content-free"][:, spec.L // 4 :].mean(axis=1)
    error = Z * mean.std(ddof=1) / np.sqrt(SAMPLES)
    assert abs(mean.mean() - closed.content_free(spec)) < error + 1e-3 * mean.mean()


@pytest.mark.parametrize("spec", PUBLISHED, ids=str)
def test_the_known_language_is_near_its_closed_form(spec: Spec) -> None:
    """Which is an approximation: within 5 % and 4.9 standard errors."""
    mean = measured(spec)["known"][:, spec.L // 4 :].mean(axis=1)
    error = Z * mean.std(ddof=1) / np.sqrt(SAMPLES)
    assert abs(mean.mean() - closed.known_language(spec)) < error + 0.05 * mean.mean()


@pytest.mark.parametrize("spec", PUBLISHED[2:], ids=str)
def test_a_token_after_c_copies_costs_what_it_should(spec: Spec) -> None:
    """Far from both ends of an element, where it is known which one is spoken.

    Within 1 % of h_0 and 4.9 standard errors (of samples: places are heard again and again).
    """
    h = closed.copies(spec, 5)
    where = targets(spec, 20, Split.TEST, 0, SAMPLES)
    far = (where.offset > spec.l * 0.3) & (where.offset < spec.l * 0.6)
    for c in range(6):
        chosen = far & (where.exposure == c)
        total = np.where(chosen, measured(spec)["genie"] - h[c], 0).sum(axis=1)
        error = Z * total.std(ddof=1) * np.sqrt(SAMPLES) / chosen.sum()
        assert abs(total.sum() / chosen.sum()) < error + 0.01 * h[0], c
        assert error < 0.05 * h[0]


@pytest.mark.parametrize("spec", [PUBLISHED[1], PUBLISHED[3]], ids=str)
def test_what_learning_costs_is_its_closed_form(spec: Spec) -> None:
    """The excess of the genie over whoever knows the language, summed over a sample that is longer
    than the horizon: within 10 %, as the lengths and the first repetitions cost something, too."""
    assert 2 * closed.horizon(spec) < spec.L
    excess = (measured(spec)["genie"] - measured(spec)["known"]).sum(axis=1)
    error = Z * excess.std(ddof=1) / np.sqrt(SAMPLES)
    cost = closed.learning_cost(spec)
    assert abs(excess.mean() - cost) < error + 0.1 * cost
    assert error < 0.3 * cost


def test_samples_begin_with_the_stream() -> None:
    """What is measured is what the service sends."""
    spec = Spec(V=5, n=3, l=4, L=50)
    sample = stream(spec, 1, Split.TEST, 2)
    assert sample.starts[0] == 0
    assert (sample.x[sample.starts[1:] - 1] == spec.separator_id).all()
