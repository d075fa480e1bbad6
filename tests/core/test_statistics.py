"""The distribution that the contract promises.

Every test refuses at ALPHA: that is how often a correct generator would have failed on a seed
drawn at random. The seeds are fixed, so a test that passes once passes always.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import scipy
from numpy.typing import NDArray

from metalm_proto.spec import BatchRequest, Profile, Spec, Split
from metalm_service.core import reference
from metalm_service.core.engine import make_batch

ALPHA = 1e-6
SMALLEST_CELL = 20
PROFILES = pytest.mark.parametrize("profile", Profile)
NOISES = pytest.mark.parametrize(
    ("V", "e", "mask_ratio"),
    [(64, 0.10, 0.30), (2, 0.5, 0.5), (3, 0.9, 0.1), (1000, 0.05, 0.0), (300, 0.3, 1.0)],
)
ROUNDED = pytest.mark.parametrize(
    ("V", "e", "mask_ratio"), [(64, 0.1, 0.3), (5, 0.9, 0.0), (40, 0.9, 0.0)]
)

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@PROFILES
@NOISES
def test_rate_of_tokens_that_differ(profile: Profile, V: int, e: float, mask_ratio: float) -> None:
    spec = Spec(V=V, e=e, mask_ratio=mask_ratio, profile=profile)
    noisy, clean = element_tokens(spec, seed=1)
    rate = e
    if profile is Profile.METAGYM:
        rate = e * (1 - (1 - mask_ratio) / (V - 1))
    assert_rate(noisy != clean, rate)


@PROFILES
@NOISES
def test_rate_of_masks(profile: Profile, V: int, e: float, mask_ratio: float) -> None:
    spec = Spec(V=V, e=e, mask_ratio=mask_ratio, profile=profile)
    noisy, _ = element_tokens(spec, seed=2)
    assert_rate(noisy == 0, e * mask_ratio)


@PROFILES
@pytest.mark.parametrize("V", [3, 4, 64, 300])
def test_replacements_are_uniform(profile: Profile, V: int) -> None:
    # Where e (1 - mask_ratio) is a power of two, the contract's integer ratio is exact.
    spec = Spec(V=V, e=0.5, mask_ratio=0.5, profile=profile)
    noisy, clean = element_tokens(spec, seed=3)
    replaced = (noisy > 0) & (noisy != clean)
    rank = noisy[replaced] - (noisy[replaced] > clean[replaced])  # among the other tokens
    assert_uniform(rank - 1, spec.alphabet - 1)
    assert noisy[replaced].max() == spec.alphabet


@ROUNDED
def test_replacements_are_drawn_with_the_rounded_ratio(V: int, e: float, mask_ratio: float) -> None:
    # Elsewhere the ratio is rounded down: the last replacement is rarer, the others share what
    # it lacks. (By 7 % and 0.1 % at the defaults; by far more where e is large and V small.)
    spec = Spec(V=V, e=e, mask_ratio=mask_ratio)
    noisy, clean = element_tokens(spec, seed=3, samples=512)
    replaced = (noisy > 0) & (noisy != clean)
    rank = noisy[replaced] - (noisy[replaced] > clean[replaced])
    assert_frequencies(np.bincount(rank - 1, minlength=V - 1), replacement_rates(spec))


@ROUNDED
def test_replacements_are_drawn_with_the_rounded_ratio_in_profile_metagym(
    V: int, e: float, mask_ratio: float
) -> None:
    spec = Spec(V=V, e=e, mask_ratio=mask_ratio, profile=Profile.METAGYM)
    noisy, clean = element_tokens(spec, seed=3, samples=512)
    replaced = (noisy > 0) & (noisy != clean)
    pairs = (clean[replaced] - 1) * (V - 1) + noisy[replaced] - 1
    found = np.bincount(pairs, minlength=(V - 1) ** 2).reshape(V - 1, V - 1)
    # A draw that equals the clean token is not seen.
    rates = np.where(np.eye(V - 1), 0, replacement_rates(spec))
    expected = found.sum(axis=1, keepdims=True) * rates / rates.sum(axis=1, keepdims=True)
    seen = ~np.eye(V - 1, dtype=bool)
    assert expected[seen].min() >= SMALLEST_CELL
    # V - 1 row sums are fixed, one of them by chisquare itself.
    assert scipy.stats.chisquare(found[seen], expected[seen], ddof=V - 2).pvalue > ALPHA


@PROFILES
def test_replacements_do_not_depend_on_the_token_they_replace(profile: Profile) -> None:
    spec = Spec(V=5, e=0.5, mask_ratio=0.0, profile=profile)
    noisy, clean = element_tokens(spec, seed=4)
    others = spec.alphabet - 1
    replaced = noisy != clean
    rank = noisy[replaced] - (noisy[replaced] > clean[replaced])
    table = np.bincount((clean[replaced] - 1) * others + rank - 1).reshape(spec.alphabet, others)
    assert scipy.stats.chi2_contingency(table).pvalue > ALPHA


def test_the_numbers_of_the_contract() -> None:
    # P(x != clean) at the defaults, written out: .100000 and .098889.
    for profile, rate in ((Profile.METALM, 0.1), (Profile.METAGYM, 0.1 * (1 - 0.7 / 63))):
        noisy, clean = element_tokens(Spec(profile=profile), seed=5)
        assert_rate(noisy != clean, rate)
        assert_rate(noisy == 0, 0.03)


@PROFILES
@pytest.mark.parametrize("V", [2, 3, 64, 300])
def test_elements_consist_of_uniform_tokens(profile: Profile, V: int) -> None:
    # Each element once, from the language: the stream repeats them, and tests on it over-reject.
    spec = Spec(V=V, n=3000, profile=profile)
    language = reference.language(spec, 6, Split.TRAIN, 0, lambda: None)
    assert_uniform(language.tokens.astype(np.int64) - 1, spec.alphabet)


@PROFILES
def test_neighbouring_tokens_of_an_element_are_independent(profile: Profile) -> None:
    spec = Spec(V=6, n=3000, profile=profile)
    tokens = reference.language(spec, 7, Split.TRAIN, 0, lambda: None).tokens.astype(np.int64) - 1
    for lag in (1, 2, 16, 64):
        first, second = distant_pairs(tokens, lag)
        assert_uniform(first * spec.alphabet + second, spec.alphabet**2)


@PROFILES
def test_elements_are_spoken_equally_often(profile: Profile) -> None:
    spec = three_token_spec(n=23, profile=profile)
    assert_uniform(spoken(spec, seed=8).ravel(), spec.usable_elements)


@PROFILES
@pytest.mark.parametrize("lag", [1, 2, 3, 16, 64])
def test_the_order_is_independent(profile: Profile, lag: int) -> None:
    spec = three_token_spec(n=7, profile=profile)
    first, second = distant_pairs(spoken(spec, seed=9).ravel(), lag)
    assert_uniform(first * spec.usable_elements + second, spec.usable_elements**2)


@PROFILES
def test_neighbouring_samples_have_independent_orders(profile: Profile) -> None:
    spec = three_token_spec(n=7, profile=profile)
    orders = spoken(spec, seed=10)
    pairs = orders[::2] * spec.usable_elements + orders[1::2]
    assert_uniform(pairs.ravel(), spec.usable_elements**2)


def test_in_profile_metagym_the_last_element_and_the_last_token_never_occur() -> None:
    spec = Spec(V=4, n=3, l=5, e=0.0, L=50_000, profile=Profile.METAGYM)
    batch = make_batch(BatchRequest.single(spec=spec, seed=11, provenance=True), 0, 1)
    assert set(batch.y.ravel().tolist()) == {1, 2, 3, spec.separator_id}
    assert batch.provenance is not None
    assert set(batch.provenance.element.ravel().tolist()) == {0, 1}


@pytest.mark.parametrize("mean", [0.5, 3.0, 32.0, 64.0, 1000.0])
def test_lengths_are_poissons_but_three_at_least(mean: float) -> None:
    lengths = drawn_lengths(mean, seed=12)
    k = np.arange(int(mean + 20 * mean**0.5 + 20))
    probabilities = scipy.stats.poisson.pmf(k, mean)
    probabilities[3] += probabilities[:3].sum()
    probabilities[:3] = 0
    assert lengths.max() < len(k)
    assert_frequencies(np.bincount(lengths, minlength=len(k)), probabilities)


@pytest.mark.parametrize("mean", [0.01, 0.5, 3.0, 32.0, 64.0, 1000.0])
def test_the_mean_length(mean: float) -> None:
    lengths = drawn_lengths(mean, seed=13)
    expected = mean + np.exp(-mean) * (3 + 2 * mean + mean**2 / 2)
    k = np.arange(int(mean + 20 * mean**0.5 + 20))
    variance = scipy.stats.poisson.pmf(k, mean) @ (np.maximum(k, 3) - expected) ** 2
    assert_mean(lengths, expected, variance)


@PROFILES
@pytest.mark.parametrize("mean", [3.0, 8.0, 32.0])
def test_separators_are_as_frequent_as_the_lengths_make_them(profile: Profile, mean: float) -> None:
    spec = Spec(V=20, n=5, l=mean, L=400, language=14, profile=profile)
    lengths = reference.language(spec, 14, Split.TRAIN, 0, lambda: None).lengths[
        : spec.usable_elements
    ]
    # starts[t] is the probability that an element begins at t, so that t - 1 is a separator.
    starts = np.zeros(spec.L + 2)
    starts[0] = 1
    for t in range(1, len(starts)):
        before = t - lengths - 1
        starts[t] = starts[before[before >= 0]].sum() / spec.usable_elements
    size = 4000
    batch = make_batch(BatchRequest.single(spec=spec, seed=14, size=size), 0, size)
    separators = batch.y == spec.separator_id  # y begins at position 1
    places = separators.sum(axis=0).tolist()
    for found, rate in zip(places, starts[2:].clip(0, 1), strict=True):
        assert scipy.stats.binomtest(found, size, rate).pvalue > ALPHA / spec.L
    counts = separators.sum(axis=1)
    assert_mean(counts, starts[2:].sum(), counts.var())


@PROFILES
@pytest.mark.parametrize("lag", [1, 2, 3, 15, 16, 48, 63, 64, 65])
def test_noise_at_different_positions_is_independent(profile: Profile, lag: int) -> None:
    differs, elements = noise(profile, seed=15)
    first, second = distant_pairs(differs.ravel(), lag)
    both = np.logical_and(*distant_pairs(elements.ravel(), lag))
    assert_pairs(first[both], second[both])


@PROFILES
@pytest.mark.parametrize(
    "other",
    [
        {"first": 1},
        {"first": 2**32},
        {"seed": 17},
        {"seed": 16 + 2**32},
        {"split": Split.VALIDATION},
        {"split": Split.TEST},
    ],
    ids=str,
)
def test_noise_of_different_streams_is_independent(profile: Profile, other: dict[str, Any]) -> None:
    # Every second sample, so that samples one apart make pairs of which none shares a sample.
    one, elements = noise(profile, seed=16)
    two, other_elements = noise(profile, **{"seed": 16, **other})
    both = (elements & other_elements)[::2]
    assert_pairs(one[::2][both], two[::2][both])


@PROFILES
def test_noise_does_not_depend_on_the_token(profile: Profile) -> None:
    spec = Spec(V=8, e=0.3, mask_ratio=0.4, profile=profile)
    noisy, clean = element_tokens(spec, seed=18)
    kind = np.where(noisy == 0, 2, noisy != clean)
    table = np.bincount((clean - 1) * 3 + kind).reshape(spec.alphabet, 3)
    assert scipy.stats.chi2_contingency(table).pvalue > ALPHA


@PROFILES
def test_noise_does_not_depend_on_the_exposure(profile: Profile) -> None:
    spec = Spec(n=4, l=5, e=0.3, L=4000, profile=profile)
    batch = make_batch(BatchRequest.single(spec=spec, seed=19, size=10, provenance=True), 0, 10)
    provenance = batch.provenance
    assert provenance is not None
    elements = batch.y[:, :-1] <= spec.V
    exposure = provenance.exposure[:, 1:][elements].astype(np.int64)
    corruption = provenance.corruption[:, 1:][elements].astype(np.int64)
    table = np.bincount(np.minimum(exposure, 9) * 3 + corruption).reshape(10, 3)
    assert scipy.stats.chi2_contingency(table).pvalue > ALPHA


def element_tokens(spec: Spec, seed: int, samples: int = 128) -> tuple[Ints, Ints]:
    """x and the clean tokens at the element positions; half a million in 128 samples."""
    request = BatchRequest.single(spec=spec, seed=seed, size=samples)
    batch = make_batch(request, 0, samples)
    noisy, clean = (array.astype(np.int64) for array in (batch.x[:, 1:], batch.y[:, :-1]))
    elements = clean <= spec.V
    assert np.array_equal(noisy[~elements], clean[~elements])
    return noisy[elements], clean[elements]


def replacement_rates(spec: Spec) -> NDArray[np.float64]:
    """How often each of the V - 1 values (((w - Tm) R) >> 32) comes up, from the integers."""
    keep_from = int(Fraction(spec.e) * 2**32)
    width = keep_from - int(Fraction(spec.mask_ratio) * keep_from)
    ratio = (spec.V - 1) * 2**32 // width
    edges = [-(-v * 2**32 // ratio) for v in range(spec.V - 1)]
    return np.diff([*edges, width]) / width


def noise(
    profile: Profile, seed: int, first: int = 0, split: Split = Split.TRAIN
) -> tuple[Flags, Flags]:
    """Where x differs from the clean token, and where this could be: [B, L - 1] each."""
    spec = Spec(e=0.4, profile=profile)
    request = BatchRequest.single(spec=spec, seed=seed, first=first, size=128, split=split)
    batch = make_batch(request, first, 128)
    clean = batch.y[:, :-1]
    return batch.x[:, 1:] != clean, clean <= spec.V


def three_token_spec(n: int, profile: Profile) -> Spec:
    """Every element has three tokens, so that a sample holds 1024 repetitions, whichever."""
    return Spec(n=n, l=5e-324, L=4096, profile=profile)


def spoken(spec: Spec, seed: int) -> Ints:
    """The elements that 60 samples speak, [60, 1024]."""
    found = reference.provenance(spec, seed, Split.TRAIN, 0, 60, lambda: None)
    assert np.all(found.offset[:, ::4] == 0)
    return found.element[:, ::4].astype(np.int64)


def drawn_lengths(mean: float, seed: int) -> Ints:
    """The lengths of 400 000 elements of four languages."""
    spec, elements = Spec(l=mean), np.arange(100_000)
    languages = [reference.lengths(spec, seed, Split.TRAIN, i, elements) for i in range(4)]
    return np.concatenate(languages).astype(np.int64)


def distant_pairs(values: NDArray[Any], lag: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Values `lag` apart, each value in one pair at most."""
    blocks = values[: len(values) // (2 * lag) * 2 * lag].reshape(-1, 2, lag)
    return blocks[:, 0].ravel(), blocks[:, 1].ravel()


def assert_rate(flags: Flags, rate: float) -> None:
    assert flags.size > 10**5
    assert scipy.stats.binomtest(int(flags.sum()), flags.size, rate).pvalue > ALPHA


def assert_pairs(first: Flags, second: Flags) -> None:
    """Both of a pair are set as often as independent flags are, given how often each is."""
    table = np.bincount(2 * first.astype(np.int64) + second, minlength=4).reshape(2, 2)
    assert table.sum() > 10**5
    assert scipy.stats.chi2_contingency(table, correction=False).pvalue > ALPHA


def assert_mean(values: Ints, expected: float, variance: float) -> None:
    distance = (values.mean() - expected) / np.sqrt(variance / len(values))
    assert 2 * scipy.stats.norm.sf(abs(distance)) > ALPHA


def assert_uniform(values: Ints, cells: int) -> None:
    counts = np.bincount(values, minlength=cells)
    assert len(counts) == cells
    assert counts.min() >= SMALLEST_CELL
    assert cells == 1 or scipy.stats.chisquare(counts).pvalue > ALPHA


def assert_frequencies(counts: Ints, probabilities: NDArray[np.float64]) -> None:
    """Chi-square, with neighbouring cells taken together until each expects enough."""
    expected = probabilities / probabilities.sum() * counts.sum()
    edges = [0]
    for cell in range(1, len(expected)):
        parts = expected[edges[-1] : cell], expected[cell:]
        if min(part.sum() for part in parts) >= SMALLEST_CELL:
            edges.append(cell)
    assert len(edges) > 2
    found, expected = np.add.reduceat(counts, edges), np.add.reduceat(expected, edges)
    assert scipy.stats.chisquare(found, expected).pvalue > ALPHA
