from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalm_proto.batch import Batch, Language, Provenance
from metalm_proto.spec import BatchRequest, Profile, Spec, Split
from metalm_service.core import cost, engine
from metalm_service.core.engine import make_batch

BASE = Spec(V=50, n=6, l=9, e=0.2, L=600)
SEEDS = st.integers(0, 2**64 - 1)
PROFILES = pytest.mark.parametrize("profile", Profile)
LANGUAGES = pytest.mark.parametrize("language", [None, 0, 2**64 - 1])


@settings(max_examples=40)
@given(
    shorter=st.integers(1, 600),
    profile=st.sampled_from(Profile),
    language=st.none() | SEEDS,
    seed=SEEDS,
    n=st.sampled_from([2, 6, 500]),
)
def test_a_shorter_sample_is_a_prefix(
    shorter: int, profile: Profile, language: int | None, seed: int, n: int
) -> None:
    spec = replace(BASE, profile=profile, language=language, n=n)
    long, short = plain(spec, seed), plain(replace(spec, L=shorter), seed)
    assert np.array_equal(short.x, long.x[:, :shorter])
    assert np.array_equal(short.y, long.y[:, :shorter])


@PROFILES
@LANGUAGES
@pytest.mark.parametrize(
    "change", [{"e": 0.0}, {"e": 0.9}, {"mask_ratio": 0.0}, {"mask_ratio": 1.0}]
)
def test_another_noise_keeps_language_and_order(
    change: dict[str, Any], profile: Profile, language: int | None
) -> None:
    spec = replace(BASE, profile=profile, language=language)
    before, after = made(spec), made(replace(spec, **change))
    assert not np.array_equal(before.x, after.x)
    assert np.array_equal(before.y, after.y)
    assert before.provenance is not None
    assert after.provenance is not None
    assert np.array_equal(before.provenance.element, after.provenance.element)
    assert languages_of(before) == languages_of(after)


def test_more_noise_corrupts_what_less_noise_corrupted() -> None:
    less, more = (provenance_of(made(replace(BASE, e=e))).corruption > 0 for e in (0.1, 0.4))
    assert np.all(more[less])
    assert more.sum() > less.sum()


def test_the_mask_ratio_does_not_change_which_tokens_are_corrupted() -> None:
    one, other = (
        provenance_of(made(replace(BASE, mask_ratio=ratio))).corruption > 0 for ratio in (0.1, 0.9)
    )
    assert np.array_equal(one, other)


@PROFILES
@LANGUAGES
def test_more_elements_keep_those_that_were_there(profile: Profile, language: int | None) -> None:
    few = replace(BASE, profile=profile, language=language)
    for fewer, more in zip(
        languages_of(made(few)), languages_of(made(replace(few, n=60))), strict=True
    ):
        assert len(more) == 60
        assert more[: len(fewer)] == fewer


@PROFILES
@LANGUAGES
@pytest.mark.parametrize("change", [{"V": 2}, {"V": 3000}, {"l": 4.0}, {"l": 15.5}])
def test_other_tokens_or_lengths_keep_the_order(
    change: dict[str, Any], profile: Profile, language: int | None
) -> None:
    spec = replace(BASE, profile=profile, language=language)
    for before, after in zip(orders(spec), orders(replace(spec, **change)), strict=True):
        shared = min(len(before), len(after))
        assert shared > 20
        assert before[:shared] == after[:shared]


def test_a_longer_mean_keeps_the_tokens_that_both_have() -> None:
    short, long = (languages_of(made(replace(BASE, l=l)))[0] for l in (5, 12))
    for one, other in zip(short, long, strict=True):
        shared = min(len(one), len(other))
        assert one[:shared] == other[:shared]


def test_no_two_samples_of_the_streams_around_are_equal() -> None:
    spec = Spec(l=5, L=48)
    seeds = [0, 1, 2, 3, 2**32, 2**32 + 1, 2**63, 2**64 - 1]
    firsts = [0, 2**32, 2**63, 2**64 - 40]
    samples: set[bytes] = set()
    for seed, split, first in product(seeds, Split, firsts):
        samples.update(row.tobytes() for row in plain(spec, seed, split, first, size=40).y)
    # Some 200 bits a sample: two equal ones among 4000 would be a matter of 1e-50.
    assert len(samples) == len(seeds) * len(Split) * len(firsts) * 40


@pytest.mark.parametrize("difference", [1, 2**31, 2**32, 2**48, 2**63])
def test_every_bit_of_seed_and_index_matters(difference: int) -> None:
    spec = Spec(L=200)
    base = plain(spec, 5, first=9)
    for other in (plain(spec, 5 + difference, first=9), plain(spec, 5, first=9 + difference)):
        # As far apart as samples of languages without a common token would be.
        assert (base.y == other.y).mean() < 0.2
        assert (base.x == other.x).mean() < 0.2


def test_seed_and_index_cannot_be_exchanged() -> None:
    assert not np.array_equal(plain(BASE, 3, first=5).x, plain(BASE, 5, first=3).x)


@LANGUAGES
def test_splits_share_neither_language_nor_order_nor_noise(language: int | None) -> None:
    spec = replace(BASE, language=language)
    batches = [made(spec, 1, split) for split in Split]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        a, b = provenance_of(batches[one]), provenance_of(batches[other])
        assert languages_of(batches[one]) != languages_of(batches[other])
        assert not np.array_equal(a.element, b.element)
        assert not np.array_equal(a.corruption, b.corruption)


@settings(max_examples=40)
@given(
    profile=st.sampled_from(Profile),
    language=st.none() | SEEDS,
    first=st.integers(0, 2**64 - 20),
    cuts=st.sets(st.integers(1, 19), max_size=6),
    n=st.sampled_from([2, 6, 60]),
)
def test_samples_do_not_depend_on_how_they_are_batched(
    profile: Profile, language: int | None, first: int, cuts: set[int], n: int
) -> None:
    spec = replace(BASE, L=70, profile=profile, language=language, n=n)
    whole = made(spec, first=first, size=20)
    edges = [0, *sorted(cuts), 20]
    parts = [made(spec, first=first + a, size=b - a) for a, b in pairwise(edges)]
    assert np.array_equal(np.concatenate([part.x for part in parts]), whole.x)
    assert np.array_equal(np.concatenate([part.y for part in parts]), whole.y)
    for name in ("element", "offset", "exposure", "corruption"):
        arrays = [getattr(provenance_of(part), name) for part in parts]
        assert np.array_equal(np.concatenate(arrays), getattr(provenance_of(whole), name))


def test_work_in_portions_gives_the_same_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = made(BASE, size=7)
    monkeypatch.setitem(cost.TOKENS_AT_A_TIME, engine.engine_name(), 3 * BASE.L)
    assert made(BASE, size=7).digest == whole.digest


@PROFILES
@pytest.mark.parametrize("speaker", [0, 7, 2**64 - 1])
def test_a_shared_language_is_the_one_that_its_sample_would_have_had(
    profile: Profile, speaker: int
) -> None:
    spec = replace(BASE, profile=profile)
    own = made(spec, first=speaker, size=1)
    shared = made(replace(spec, language=speaker), first=speaker, size=1)
    assert languages_of(shared) == languages_of(own)
    assert np.array_equal(shared.x, own.x)
    assert np.array_equal(shared.y, own.y)
    elsewhere = made(replace(spec, language=speaker), first=1000, size=2)
    assert languages_of(elsewhere) == languages_of(own)


def test_a_shared_language_keeps_the_order_and_the_noise_of_each_sample() -> None:
    own, shared = made(BASE), made(replace(BASE, language=99))
    for spec in (BASE, replace(BASE, language=99)):
        assert orders(spec)[0] != orders(spec)[1]
    for a, b in zip(orders(BASE), orders(replace(BASE, language=99)), strict=True):
        n = min(len(a), len(b))
        assert a[:n] == b[:n]
    elements = (own.y <= BASE.V) & (shared.y <= BASE.V)
    noise = [provenance_of(batch).corruption[:, 1:] for batch in (own, shared)]
    assert np.array_equal(noise[0][elements[:, :-1]], noise[1][elements[:, :-1]])


@PROFILES
@LANGUAGES
def test_y_is_the_clean_token_that_follows(profile: Profile, language: int | None) -> None:
    batch = made(replace(BASE, profile=profile, language=language))
    provenance = provenance_of(batch)
    for row, clean in enumerate(clean_of(batch)):
        assert batch.y[row, :-1].tolist() == clean[1:].tolist()
        kept = provenance.corruption[row] == 0
        assert np.array_equal(batch.x[row][kept], clean[kept])
        assert 0 < kept.mean() < 1


@PROFILES
def test_the_first_token_is_no_target_and_the_mask_never_one(profile: Profile) -> None:
    spec = replace(BASE, profile=profile, e=0.9, mask_ratio=1)
    batch = made(spec, size=50)
    assert np.all(batch.y > 0)
    assert (batch.x == 0).any()
    assert np.all(provenance_of(batch).offset[:, 0] == 0)
    for row, clean in enumerate(clean_of(batch)):
        assert batch.y[row, 0] == clean[1]


@PROFILES
def test_a_separator_is_never_corrupted_and_never_a_replacement(profile: Profile) -> None:
    spec = replace(BASE, profile=profile, V=2, e=1 - 2**-53)
    batch = made(spec, size=20)
    provenance = provenance_of(batch)
    separators = np.array([clean == spec.separator_id for clean in clean_of(batch)])
    assert np.all(provenance.corruption[separators] == 0)
    assert np.all(provenance.corruption[~separators] > 0)
    assert np.array_equal(batch.x == spec.separator_id, separators)


def test_in_profile_metalm_a_replacement_is_another_token() -> None:
    batch = made(replace(BASE, V=2, e=0.5, mask_ratio=0))
    clean = np.array(clean_of(batch))
    replaced = provenance_of(batch).corruption == 1
    assert np.array_equal(batch.x != clean, replaced)
    assert np.array_equal(batch.x[replaced], 3 - clean[replaced])


def test_elements_end_with_a_separator_and_are_three_tokens_or_more() -> None:
    for clean in clean_of(made(replace(BASE, l=0.01, e=0))):
        assert np.flatnonzero(clean == BASE.separator_id)[:5].tolist() == [3, 7, 11, 15, 19]


def made(
    spec: Spec, seed: int = 1, split: Split = Split.TRAIN, first: int = 0, size: int = 3
) -> Batch:
    return requested(spec, seed, split, first, size, provenance=True)


def plain(
    spec: Spec, seed: int = 1, split: Split = Split.TRAIN, first: int = 0, size: int = 3
) -> Batch:
    """The same without provenance: faster."""
    return requested(spec, seed, split, first, size, provenance=False)


def requested(
    spec: Spec, seed: int, split: Split, first: int, size: int, provenance: bool
) -> Batch:
    request = BatchRequest.single(
        spec=spec, seed=seed, split=split, first=first, size=size, provenance=provenance
    )
    return make_batch(request, first, size)


def provenance_of(batch: Batch) -> Provenance:
    assert batch.provenance is not None
    return batch.provenance


def languages_of(batch: Batch) -> list[list[list[int]]]:
    return [as_lists(language) for language in provenance_of(batch).languages]


def as_lists(language: Language) -> list[list[int]]:
    return [element.tolist() for element in language.elements()]


def orders(spec: Spec) -> list[list[int]]:
    """The elements that each sample speaks, one after another."""
    provenance = provenance_of(made(spec))
    rows = zip(provenance.element, provenance.offset, strict=True)
    return [elements[offsets == 0].tolist() for elements, offsets in rows]


def clean_of(batch: Batch) -> list[np.typing.NDArray[Any]]:
    """The clean tokens of x, [L] a sample, put together from the language."""
    provenance = provenance_of(batch)
    clean = []
    for row in range(batch.size):
        language = provenance.languages[row % len(provenance.languages)]
        closed = [[*element, batch.spec.separator_id] for element in as_lists(language)]
        places = zip(provenance.element[row].tolist(), provenance.offset[row].tolist(), strict=True)
        clean.append(np.array([closed[element][offset] for element, offset in places]))
    return clean
