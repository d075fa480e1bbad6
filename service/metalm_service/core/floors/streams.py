"""The samples that floors are measured on, and where their targets come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metalm_proto.spec import BatchRequest, Spec, Split
from metalm_service.core import engine, reference

Ints = NDArray[np.int32]
Elements = tuple[Ints, NDArray[np.int64]]

NEVER = -1
"""The lag of what was not spoken before."""


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Where the target y[t], the clean token t + 1, comes from; int32 [B, L] each.

    `element`: 0..n-1. `offset`: inside the element; its separator has the element's length.
    `exposure`: how often the element was spoken in full before. `lag`: tokens since the same
    offset of the element was last spoken, -1 if it never was.
    """

    element: Ints
    offset: Ints
    exposure: Ints
    lag: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """One sample, and its repetitions: `x`, `y` int32 [L]; `starts`, `elements` int64
    [repetitions], of all that speak one of the tokens 0..L."""

    x: Ints
    y: Ints
    starts: NDArray[np.int64]
    elements: NDArray[np.int64]

    @property
    def slots(self) -> Ints:
        """For each repetition, the number of its element in the order of first appearance."""
        _, first, inverse = np.unique(self.elements, return_index=True, return_inverse=True)
        rank = np.empty(len(first), np.int32)
        rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
        return rank[inverse]


def stream(spec: Spec, seed: int, split: Split, index: int) -> Stream:
    """The sample `index` with its repetitions."""
    tokens = np.empty((2, 1, spec.L), spec.dtype)
    engine.generate(spec, seed, split, index, tokens)
    x, y = tokens[:, 0].astype(np.int32)
    # The first token of a sample is no separator, so the targets hold them all.
    ends = np.flatnonzero(y == spec.separator_id) + 1
    starts = np.concatenate([[0], ends[ends < spec.L] + 1])
    return Stream(x, y, starts, reference.order(spec, seed, split, index, len(starts)))


def targets(spec: Spec, seed: int, split: Split, first: int, count: int) -> Targets:
    """Where the targets of the samples [first, first + count) come from.

    Raises InvalidArgument for samples that there are not.
    """
    asked = BatchRequest.single(spec=spec, seed=seed, split=split, first=first, size=count)
    element, offset, exposure, lag = np.empty((4, count, spec.L), np.int32)
    positions = np.arange(1, spec.L + 1)
    for row, index in enumerate(range(asked.start, asked.stop)):
        spoken = stream(spec, seed, split, index)
        starts = spoken.starts
        repetition = np.searchsorted(starts, positions, side="right") - 1
        before, last = _earlier(spoken.elements)
        element[row] = spoken.elements[repetition]
        offset[row] = positions - starts[repetition]
        exposure[row] = before[repetition]
        since = np.where(last >= 0, starts - starts[last], NEVER)
        lag[row] = since[repetition]
    return Targets(element, offset, exposure, lag)


def language(
    spec: Spec, seed: int, split: Split, index: int, proceed: Callable[[], None] = lambda: None
) -> Elements:
    """The elements that sample `index` may speak: their tokens, int32, one element after another,
    and where each begins and the last one ends, int64 [k + 1].

    `proceed` is called again and again; what it raises ends the work.
    """
    index = index if spec.language is None else spec.language
    usable = spec.usable_elements
    told = reference.language(spec, seed, split, index, proceed)
    bounds = np.zeros(usable + 1, np.int64)
    np.cumsum(told.lengths[:usable], out=bounds[1:])
    return told.tokens[: bounds[-1]].astype(np.int32), bounds


def _earlier(elements: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each repetition how many before it spoke its element, and which one did last (or -1)."""
    by_element = np.argsort(elements, kind="stable")
    grouped = elements[by_element]
    again = np.concatenate([[False], grouped[1:] == grouped[:-1]])
    rank = np.arange(len(elements))
    begins = np.maximum.accumulate(np.where(again, 0, rank))
    before, last = np.empty((2, len(elements)), np.int64)
    before[by_element] = rank - begins
    last[by_element] = np.where(again, by_element[rank - 1], NEVER)
    return before, last
