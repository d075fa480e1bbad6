"""The contract `metalm-1` in numpy: the executable specification.

Written to be read beside `proto/metalm/v1/metalm-1.md`, one function a step. The
kernel is tested against it, and takes its place where numba is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metalm_proto.batch import KEPT, MASKED, REPLACED, Language, Provenance, Tokens
from metalm_proto.spec import Profile, Spec, Split
from metalm_service.core.noise import NoiseThresholds
from metalm_service.core.philox import Purpose, Words, tag, words, words_at
from metalm_service.core.poisson import MINIMUM_LENGTH, length_table

_32 = np.uint64(32)


@dataclass(frozen=True, slots=True, eq=False)
class _Stream:
    """The clean tokens of one sample and, for each, which repetition it belongs to."""

    tokens: Tokens  # [L + 1]
    repetition: NDArray[np.int64]  # [L + 1]
    order: NDArray[np.int64]  # [repetitions], the element each speaks
    starts: NDArray[np.int64]  # [repetitions]


def scale(w: Words, m: int) -> NDArray[np.int64]:
    """(w * m) >> 32: a word to 0 .. m-1."""
    return ((w.astype(np.uint64) * np.uint64(m)) >> _32).astype(np.int64)


def lengths(
    spec: Spec, seed: int, split: Split, index: int, elements: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Step 1: the lengths of the given elements."""
    w = words_at(tag(Purpose.LENGTH, split.code), elements, seed=seed, index=index)
    return length_table(spec.l).lengths(w)


def element(spec: Spec, seed: int, split: Split, index: int, i: int, length: int) -> Tokens:
    """Step 2: the first `length` tokens of element i."""
    w = words(tag(Purpose.TOKEN, split.code, i), length, seed=seed, index=index)
    return (1 + scale(w, spec.alphabet)).astype(spec.dtype)


def order(spec: Spec, seed: int, split: Split, index: int, count: int) -> NDArray[np.int64]:
    """Step 3: the elements that repetitions 0 .. count-1 speak."""
    w = words(tag(Purpose.ORDER, split.code), count, seed=seed, index=index)
    return scale(w, spec.usable_elements)


def language(
    spec: Spec, seed: int, split: Split, index: int, proceed: Callable[[], None]
) -> Language:
    """Every element of the language that the sample speaks.

    `proceed` is called again and again; what it raises ends the work.
    """
    index = index if spec.language is None else spec.language
    n_lengths = np.empty(spec.n, np.int32)
    for elements in _chunks(spec.n):
        proceed()
        n_lengths[elements] = lengths(spec, seed, split, index, elements)
    ends = np.cumsum(n_lengths, dtype=np.int64)
    tokens = np.empty(ends[-1], spec.dtype)
    for positions in _chunks(len(tokens)):
        proceed()
        i = np.searchsorted(ends, positions, side="right")
        offsets = positions - ends[i] + n_lengths[i]
        tags = tag(Purpose.TOKEN, split.code) + (i << 8)
        w = words_at(tags, offsets, seed=seed, index=index)
        tokens[positions] = 1 + scale(w, spec.alphabet)
    return Language(n_lengths, tokens)


def sample(spec: Spec, seed: int, split: Split, index: int) -> tuple[Tokens, Tokens]:
    """x and y of one sample, each [L] of spec.dtype."""
    stream = _stream(spec, seed, split, index)
    clean = stream.tokens[: spec.L]
    return _noisy(spec, seed, split, index, clean)[0], stream.tokens[1:]


def provenance(
    spec: Spec, seed: int, split: Split, first: int, size: int, proceed: Callable[[], None]
) -> Provenance:
    """Where each token of the samples [first, first + size) comes from.

    `proceed` is called again and again; what it raises ends the work.
    """
    element_ids, offsets, exposures = np.empty((3, size, spec.L), np.int32)
    corruption = np.empty((size, spec.L), np.uint8)
    for row, index in enumerate(range(first, first + size)):
        proceed()
        stream = _stream(spec, seed, split, index, proceed)
        repetition = stream.repetition[: spec.L]
        element_ids[row] = stream.order[repetition]
        offsets[row] = np.arange(spec.L) - stream.starts[repetition]
        exposures[row] = _times_before(stream.order)[repetition]
        corruption[row] = _noisy(spec, seed, split, index, stream.tokens[: spec.L])[1]
    speakers = range(first, first + (size if spec.language is None else 1))
    languages = tuple(language(spec, seed, split, index, proceed) for index in speakers)
    return Provenance(element_ids, offsets, exposures, corruption, languages)


def _chunks(count: int) -> Iterator[NDArray[np.int64]]:
    """0 .. count-1 in pieces that take some milliseconds each."""
    for first in range(0, count, 2**16):
        yield np.arange(first, min(first + 2**16, count))


def _stream(
    spec: Spec, seed: int, split: Split, index: int, proceed: Callable[[], None] = lambda: None
) -> _Stream:
    """Step 4: the spoken elements, each closed by the separator, cut at L + 1 tokens.

    Elements are made when they are first spoken, so that n may be far larger than L.
    """
    total = spec.L + 1
    spoken = order(spec, seed, split, index, -(-total // (MINIMUM_LENGTH + 1)))
    speaker = index if spec.language is None else spec.language
    spoken_lengths = lengths(spec, seed, split, speaker, spoken).astype(np.int64)
    ends = np.cumsum(spoken_lengths + 1)
    repetitions = int(np.searchsorted(ends, total)) + 1
    spoken, ends = spoken[:repetitions], ends[:repetitions]
    separator = np.array([spec.separator_id], spec.dtype)
    closed = {}
    for i, length in set(zip(spoken.tolist(), spoken_lengths.tolist(), strict=False)):
        proceed()
        tokens = element(spec, seed, split, speaker, i, min(length, total))
        closed[i] = np.append(tokens, separator)
    tokens = np.concatenate([closed[i] for i in spoken.tolist()])[:total]
    starts = np.concatenate([[0], ends[:-1]])
    repetition = np.searchsorted(ends, np.arange(total), side="right")
    return _Stream(tokens, repetition, spoken, starts)


def _noisy(
    spec: Spec, seed: int, split: Split, index: int, clean: Tokens
) -> tuple[Tokens, NDArray[np.uint8]]:
    """Step 5: the noisy tokens, and which of them were kept, replaced or masked."""
    thresholds = NoiseThresholds.of(spec)
    w = words(tag(Purpose.NOISE, split.code), len(clean), seed=seed, index=index)
    shifted = w.astype(np.uint64) - np.uint64(thresholds.mask)
    other = 1 + ((shifted * np.uint64(thresholds.ratio)) >> _32).astype(np.int64)
    if spec.profile is Profile.METALM:
        other += other >= clean
    kept = (clean == spec.separator_id) | (w >= thresholds.clean)
    masked = w < thresholds.mask
    corruption = np.where(kept, KEPT, np.where(masked, MASKED, REPLACED)).astype(np.uint8)
    return np.choose(corruption, [clean, other, spec.mask_id]).astype(spec.dtype), corruption


def _times_before(spoken: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each repetition's element was spoken before it."""
    by_element = np.argsort(spoken, kind="stable")
    grouped = spoken[by_element]
    begins = np.flatnonzero(np.concatenate([[True], grouped[1:] != grouped[:-1]]))
    runs = np.diff(np.append(begins, len(spoken)))
    counts = np.empty_like(spoken)
    counts[by_element] = np.arange(len(spoken)) - np.repeat(begins, runs)
    return counts
