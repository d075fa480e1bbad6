"""Against a model of the contract in Python integers, one word at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalm_proto.batch import KEPT, MASKED, REPLACED, Batch, Provenance
from metalm_proto.spec import BatchRequest, Profile, Spec, Split
from metalm_service.core.engine import make_batch

LENGTH, TOKEN, ORDER, NOISE = range(4)
U64 = st.integers(0, 2**64 - 1)


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    profile = draw(st.sampled_from(Profile))
    return Spec(
        V=draw(st.sampled_from([2, 3, 4, 64, 254, 255, 65534, 65535, 2**31 - 3])),
        n=draw(st.integers(1 + (profile is Profile.METAGYM), 5)),
        l=draw(st.sampled_from([5e-324, 0.5, 3.0, 7.25])),
        e=draw(st.sampled_from([0.0, 2.0**-32, 0.1, 0.5, 1 - 2.0**-53])),
        L=draw(st.integers(1, 80)),
        mask_ratio=draw(st.sampled_from([0.0, 0.3, 0.5, 1.0])),
        profile=profile,
        language=draw(st.none() | st.sampled_from([0, 7, 2**64 - 1])),
    )


@settings(max_examples=60, deadline=None)
@given(spec=specs(), seed=U64, split=st.sampled_from(Split), first=st.integers(0, 2**64 - 2))
def test_batch_and_provenance_are_those_of_the_model(
    spec: Spec, seed: int, split: Split, first: int
) -> None:
    batch, provenance = made(spec, seed, split, first, size=2)
    samples = [modelled(spec, seed, split, index) for index in (first, first + 1)]
    assert batch.x.tolist() == [sample.x for sample in samples]
    assert batch.y.tolist() == [sample.y for sample in samples]
    assert provenance.element.tolist() == [sample.element for sample in samples]
    assert provenance.offset.tolist() == [sample.offset for sample in samples]
    assert provenance.exposure.tolist() == [sample.exposure for sample in samples]
    assert provenance.corruption.tolist() == [sample.corruption for sample in samples]
    speakers = [first, first + 1] if spec.language is None else [spec.language]
    assert [
        [element.tolist() for element in language.elements()] for language in provenance.languages
    ] == [elements_of(spec, seed, split, speaker) for speaker in speakers]


@pytest.mark.parametrize("language", [None, 4])
@pytest.mark.parametrize("profile", Profile)
def test_the_parts_of_a_provenance_agree(profile: Profile, language: int | None) -> None:
    spec = Spec(V=300, n=4, l=5, e=0.3, L=500, profile=profile, language=language)
    batch, provenance = made(spec, 3, Split.TEST, 10, size=3)
    assert len(provenance.languages) == (3 if language is None else 1)
    for row in range(3):
        spoken = provenance.languages[row if language is None else 0]
        closed = [[*element.tolist(), spec.separator_id] for element in spoken.elements()]
        places = zip(provenance.element[row], provenance.offset[row], strict=True)
        clean = [closed[element][offset] for element, offset in places]
        assert clean[1:] == batch.y[row, :-1].tolist()
        kept = provenance.corruption[row] == KEPT
        assert np.all(batch.x[row][kept] == np.array(clean)[kept])
        assert np.all(batch.x[row][provenance.corruption[row] == MASKED] == 0)
        replaced = batch.x[row][provenance.corruption[row] == REPLACED]
        assert replaced.size
        assert np.all((replaced > 0) & (replaced <= spec.alphabet))
        assert np.all(kept[np.array(clean) == spec.separator_id])


def test_arrays_have_the_promised_types_and_shapes() -> None:
    spec = Spec(V=300, n=4, l=5, L=60)
    _, provenance = made(spec, 0, Split.TRAIN, 0, size=2)
    for array in (provenance.element, provenance.offset, provenance.exposure):
        assert (array.dtype.str, array.shape) == ("<i4", (2, 60))
    assert (provenance.corruption.dtype.str, provenance.corruption.shape) == ("|u1", (2, 60))
    for language in provenance.languages:
        assert (language.lengths.dtype.str, language.lengths.shape) == ("<i4", (4,))
        assert language.tokens.dtype == spec.dtype
        assert language.tokens.shape == (language.lengths.sum(),)
        assert [len(element) for element in language.elements()] == language.lengths.tolist()


def test_exposure_counts_the_earlier_repetitions_of_the_element() -> None:
    spec = Spec(n=3, l=4, L=400)
    _, provenance = made(spec, 1, Split.TRAIN, 0, size=1)
    starts = np.flatnonzero(provenance.offset[0] == 0)
    times = [0, 0, 0]
    for start, end in zip(starts, [*starts[1:], spec.L], strict=True):
        element = int(provenance.element[0, start])
        assert set(provenance.element[0, start:end].tolist()) == {element}
        assert provenance.offset[0, start:end].tolist() == list(range(end - start))
        assert set(provenance.exposure[0, start:end].tolist()) == {times[element]}
        times[element] += 1
    assert min(times) > 5


def made(spec: Spec, seed: int, split: Split, first: int, size: int) -> tuple[Batch, Provenance]:
    request = BatchRequest.single(
        spec=spec, first=first, size=size, seed=seed, split=split, provenance=True
    )
    batch = make_batch(request, first, size)
    assert batch.provenance is not None
    return batch, batch.provenance


@dataclass
class Sample:
    x: list[int] = field(default_factory=list)
    y: list[int] = field(default_factory=list)
    element: list[int] = field(default_factory=list)
    offset: list[int] = field(default_factory=list)
    exposure: list[int] = field(default_factory=list)
    corruption: list[int] = field(default_factory=list)


def modelled(spec: Spec, seed: int, split: Split, index: int) -> Sample:
    speaker = index if spec.language is None else spec.language
    elements = elements_of(spec, seed, split, speaker)
    metagym = spec.profile is Profile.METAGYM
    keep_from = int(Fraction(spec.e) * 2**32)
    mask_below = int(Fraction(spec.mask_ratio) * keep_from)
    sample = Sample()
    for t, (clean, element, offset, exposure) in enumerate(
        spoken(spec, seed, split, index, elements)
    ):
        if t > 0:
            sample.y.append(clean)
        if t == spec.L:
            return sample
        w = word(seed, index, NOISE | tag_of(split), t)
        if clean == spec.V + 1 or w >= keep_from:
            noisy, corruption = clean, KEPT
        elif w < mask_below:
            noisy, corruption = 0, MASKED
        else:
            ratio = (spec.V - 1) * 2**32 // (keep_from - mask_below)
            noisy, corruption = 1 + ((w - mask_below) * ratio >> 32), REPLACED
            if not metagym and noisy >= clean:
                noisy += 1
        sample.x.append(noisy)
        sample.element.append(element)
        sample.offset.append(offset)
        sample.exposure.append(exposure)
        sample.corruption.append(corruption)
    raise AssertionError("the stream has no end")


def spoken(
    spec: Spec, seed: int, split: Split, index: int, elements: list[list[int]]
) -> Iterator[tuple[int, int, int, int]]:
    """Clean token, element, offset and exposure, without end."""
    usable = spec.n - (spec.profile is Profile.METAGYM)
    times = [0] * spec.n
    repetition = 0
    while True:
        element = word(seed, index, ORDER | tag_of(split), repetition) * usable >> 32
        for offset, token in enumerate([*elements[element], spec.V + 1]):
            yield token, element, offset, times[element]
        times[element] += 1
        repetition += 1


def elements_of(spec: Spec, seed: int, split: Split, speaker: int) -> list[list[int]]:
    alphabet = spec.V - (spec.profile is Profile.METAGYM)
    table = length_entries(spec.l)
    elements = []
    for i in range(spec.n):
        w = word(seed, speaker, LENGTH | tag_of(split), i)
        length = max(3, sum(entry <= w for entry in table))
        tag = TOKEN | tag_of(split) | i << 8
        elements.append([1 + (word(seed, speaker, tag, j) * alphabet >> 32) for j in range(length)])
    return elements


@cache
def length_entries(mean: float) -> list[int]:
    entries: list[int] = []
    with localcontext() as context:
        context.prec = 80
        term = total = (-Decimal(mean)).exp()
        while (entry := int(total * 2**32)) < 2**32 - 1:
            entries.append(entry)
            term = term * Decimal(mean) / len(entries)
            total += term
    return entries


def tag_of(split: Split) -> int:
    return {Split.TRAIN: 0, Split.VALIDATION: 1, Split.TEST: 2}[split] << 4


@cache
def word(seed: int, index: int, tag: int, p: int) -> int:
    q, r = divmod(p, 64)
    c = [16 * q + r % 16, tag, index % 2**32, index >> 32]
    k = [seed % 2**32, seed >> 32]
    for _ in range(10):
        high0, low0 = divmod(c[0] * 0xD2511F53, 2**32)
        high1, low1 = divmod(c[2] * 0xCD9E8D57, 2**32)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c[r // 16]
