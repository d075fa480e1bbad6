"""The floors of tiny languages, where everything that can happen is listed.

Two elements over the tokens 1 and 2, eight tokens. All languages, orders and noises are enumerated
here, and by nothing of the package; so conditionals are sums, and equal to rounding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("numba")

from metalm_service.core.compiling import compiled
from metalm_service.core.floors.bayes import bayes
from metalm_service.core.floors.known import known
from metalm_service.core.floors.summary import exact_rows
from metalm_service.core.floors.window import window

L = 8
SEPARATOR = 3
Element = tuple[int, ...]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """`lengths`: P(length). The channel: P(kept), P(the one wrong token), P(masked)."""

    lengths: tuple[tuple[int, float], ...]
    kept: float
    wrong: float
    masked: float

    @property
    def elements(self) -> dict[Element, float]:
        return {
            tokens: p / 2**length
            for length, p in self.lengths
            for tokens in product((1, 2), repeat=length)
        }

    def noise(self, clean: int) -> list[tuple[int, float]]:
        if clean == SEPARATOR:
            return [(SEPARATOR, 1.0)]
        all_noise = [(clean, self.kept), (3 - clean, self.wrong), (0, self.masked)]
        return [(x, p) for x, p in all_noise if p > 0]


THREE = ((3, 1.0),)
THREE_OR_FOUR = ((3, 0.6), (4, 0.4))
CASES = [
    Case(THREE, 0.7, 0.21, 0.09),  # metalm with V = 2, n = 2, e = 0.3
    Case(THREE, 0.85, 0.15, 0.0),  # metagym with V = 3, n = 3, e = 0.3, mask_ratio = 0
    Case(THREE, 0.3, 0.7, 0.0),  # r < 1
    Case(THREE, 0.6, 0.0, 0.4),  # r = inf
    Case(THREE_OR_FOUR, 0.7, 0.3, 0.0),
]
EACH = pytest.mark.parametrize("case", CASES, ids=str)


@dataclass(frozen=True)
class World:
    """All that can happen: rows of x [rows, L], y, whether the first two repetitions speak one
    element, and the probability."""

    x: NDArray[np.int32]
    y: NDArray[np.int32]
    same: NDArray[np.bool_]
    p: Floats

    def finished(self, t: int) -> NDArray[np.int64]:
        result: NDArray[np.int64] = (self.x[:, : t + 1] == SEPARATOR).sum(axis=1)
        return result

    def conditional(self, t: int, told: NDArray[np.bool_] | None = None, oldest: int = 0) -> Floats:
        """P(y[t] | x[oldest..t], told) for each row, from the joint probabilities."""
        key = np.zeros(len(self.p), np.int64) if told is None else told.astype(np.int64)
        for column in self.x[:, oldest : t + 1].T:
            key = 4 * key + column
        joint = self.sums(4 * key + self.y[:, t])
        result: Floats = joint / self.sums(key)
        return result

    def sums(self, key: NDArray[np.int64]) -> Floats:
        """For each row the probability of all rows with its key."""
        _, inverse = np.unique(key, return_inverse=True)
        total = np.zeros(len(self.p))
        np.add.at(total, inverse, self.p)
        return total[inverse]

    def told(self, t: int) -> NDArray[np.bool_]:
        """What the genie tells at t: nothing before two repetitions are over."""
        result: NDArray[np.bool_] = self.same & (self.finished(t) >= 2)
        return result

    def mean(self, loss: Floats) -> Floats:
        """The expectation at each position of losses [rows, L]."""
        result: Floats = self.p @ loss
        return result


def spoken(first: Element, second: Element, third: Element) -> Element:
    return (*first, SEPARATOR, *second, SEPARATOR, *third, SEPARATOR)[: L + 1]


def with_noise(case: Case, streams: dict[tuple[Element, bool], float]) -> World:
    parts = []
    for (clean, is_same), probability in streams.items():
        noises = [case.noise(token) for token in clean[:L]]
        x = np.stack(np.meshgrid(*([v for v, _ in noise] for noise in noises)), -1).reshape(-1, L)
        q = np.stack(np.meshgrid(*([q for _, q in noise] for noise in noises)), -1).reshape(-1, L)
        y = np.tile(np.array(clean[1:]), (len(x), 1))
        parts.append((x, y, np.full(len(x), is_same), probability * q.prod(axis=1)))
    x, y, same, p = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return World(x.astype(np.int32), y.astype(np.int32), same, p)


@cache
def unknown_language(case: Case) -> World:
    streams: dict[tuple[Element, bool], float] = defaultdict(float)
    for (a, p_a), (b, p_b) in product(case.elements.items(), repeat=2):
        for order in product((0, 1), repeat=3):
            first, second, third = ((a, b)[i] for i in order)
            streams[spoken(first, second, third), order[0] == order[1]] += p_a * p_b / 8
    return with_noise(case, streams)


def one_language(case: Case, a: Element, b: Element) -> World:
    streams: dict[tuple[Element, bool], float] = defaultdict(float)
    for order in product((a, b), repeat=3):
        streams[spoken(*order), False] += 1 / 8
    return with_noise(case, streams)


def hazard(case: Case) -> tuple[Floats, Floats]:
    ends, goes_on = np.zeros(L + 2), np.ones(L + 2)
    for length, p in case.lengths:
        ends[length] = p / sum(q for other, q in case.lengths if other >= length)
        goes_on[length] = 1 - ends[length]
    return ends, goes_on


def by_kernel(world: World, call: Callable[[Any, Any, Any, Any], Any]) -> Floats:
    return with_returned(world, call)[0]


def with_returned(world: World, call: Callable[[Any, Any, Any, Any], Any]) -> tuple[Floats, Floats]:
    """The losses [rows, L], and what the kernel returned for each row."""
    loss, returned = np.empty(world.x.shape), np.empty(len(world.x))
    same, another = np.array([0, 0, 1], np.int32), np.array([0, 1, 2], np.int32)
    for i, is_same in enumerate(world.same):
        slots = same if is_same else another
        found = call(world.x[i], world.y[i], slots, loss[i])
        returned[i] = np.nan if found is None else found
    return loss, returned


def channel(case: Case) -> tuple[Any, ...]:
    ratio = case.kept / case.wrong if case.wrong else np.inf
    powers = max(ratio, 1 / ratio) ** -np.arange(L, dtype=np.float64)
    return (2.0, 2, powers, ratio < 1, *hazard(case), SEPARATOR)


@cache
def genie(case: Case) -> Floats:
    kernel, rest = compiled(bayes), channel(case)
    return by_kernel(
        unknown_language(case),
        lambda x, y, slots, out: kernel(x, y, slots, True, out, 0, case.kept, case.wrong, *rest),
    )


def greedy(case: Case) -> Floats:
    return greedy_with_doubt(case)[0]


@cache
def greedy_with_doubt(case: Case) -> tuple[Floats, Floats]:
    kernel, rest, slots = compiled(bayes), channel(case), np.empty(3, np.int32)
    return with_returned(
        unknown_language(case),
        lambda x, y, _, out: kernel(x, y, slots, False, out, 0, case.kept, case.wrong, *rest),
    )


def native(case: Case, world: World, a: Element, b: Element) -> Floats:
    kernel = compiled(known)
    tokens, bounds = np.array(a + b, np.int32), np.array([0, len(a), len(a) + len(b)])
    return by_kernel(
        world,
        lambda x, y, _, out: kernel(x, y, tokens, bounds, out, case.kept, case.wrong, SEPARATOR),
    )


@EACH
def test_the_genie_is_the_conditional_given_past_assignments(case: Case) -> None:
    world = unknown_language(case)
    for t in range(L):
        exact = -np.log(world.conditional(t, world.told(t)))
        np.testing.assert_allclose(genie(case)[:, t], exact, rtol=1e-9, atol=1e-9)


@EACH
def test_whoever_knows_the_language_is_the_conditional_given_it(case: Case) -> None:
    elements = list(case.elements)
    for a, b in [
        (elements[0], elements[-1]),
        (elements[1], elements[1]),
        (elements[-2], elements[3]),
    ]:
        world = one_language(case, a, b)
        loss = native(case, world, a, b)
        for t in range(L):
            exact = -np.log(world.conditional(t))
            np.testing.assert_allclose(loss[:, t], exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", [case for case in CASES if case.lengths == THREE], ids=str)
@pytest.mark.parametrize("width", [1, 2, 4, 5, 7, 8])
def test_a_window_is_the_conditional_given_what_is_in_it(case: Case, width: int) -> None:
    """And given the elements and offsets of these tokens, and the offset where it ends.

    (With lengths that differ, a position also tells something about those before the window, and
    the window does not know its position.)
    """
    world = unknown_language(case)
    kernel, rest = compiled(window), channel(case)
    some = np.random.default_rng(1).choice(len(world.p), min(2000, len(world.p)), replace=False)
    chosen = World(world.x[some], world.y[some], world.same[some], world.p[some])
    loss = by_kernel(
        chosen,
        lambda x, y, slots, out: kernel(x, y, slots, out, width, case.kept, case.wrong, *rest),
    )
    for t in range(L):
        # The separators stand at 3 and 7: at 7 with W > 4 there is something of both repetitions.
        told = world.same & (t == 7 and width > 4)
        exact = -np.log(world.conditional(t, told, max(0, t + 1 - width)))[some]
        np.testing.assert_allclose(loss[:, t], exact, rtol=1e-9, atol=1e-9)


@EACH
def test_the_optimum_lies_in_the_bracket(case: Case) -> None:
    """E[known] <= E[genie] <= E[optimum] <= E[greedy], at each position."""
    world = unknown_language(case)
    optimum = np.stack([-np.log(world.conditional(t)) for t in range(L)], axis=1)
    means = [world.mean(genie(case)), world.mean(optimum), world.mean(greedy(case))]
    if case.lengths == THREE:
        best = np.zeros(L)
        for (a, p), (b, q) in product(case.elements.items(), repeat=2):
            if a > b:  # the same as (b, a)
                continue
            one = one_language(case, a, b)
            exact = np.stack([-np.log(one.conditional(t)) for t in range(L)], axis=1)
            best += (1 if a == b else 2) * p * q * one.mean(exact)
        means.insert(0, best)
    for lower, upper in pairwise(means):
        assert (lower <= upper + 1e-12).all()
    if 0 < case.wrong < case.kept:
        assert means[-3][-1] + 1e-6 < means[-2][-1] + 1e-6 < means[-1][-1]


@EACH
def test_where_it_counts_as_exact_the_floor_is_the_optimum(case: Case) -> None:
    """There all three are the same; elsewhere greedy and genie may agree, and the optimum not."""
    world = unknown_language(case)
    optimum = np.stack([-np.log(world.conditional(t)) for t in range(L)], axis=1)
    found, doubts = greedy_with_doubt(case)
    exact = exact_rows({"genie": genie(case), "greedy": found}, doubts)
    assert exact.any() == (case.wrong == 0 or case.lengths != THREE)
    np.testing.assert_allclose(found[exact], optimum[exact], rtol=0, atol=1e-6)
    agree = (found == genie(case)).all(axis=1)
    assert (np.abs(found - optimum)[agree & ~exact].max(axis=1) > 1e-3).any()


@EACH
def test_doubt_is_how_often_greedy_is_wrong(case: Case) -> None:
    """On average over all that can happen: two repetitions are over at most."""
    world = unknown_language(case)
    _, doubts = greedy_with_doubt(case)
    over = world.finished(L - 1) == 2
    kernel, rest = compiled(bayes), channel(case)
    slots, wrong = np.empty(3, np.int32), np.zeros(len(world.p))
    for i in np.flatnonzero(over):
        out = np.empty(L)
        kernel(world.x[i], world.y[i], slots, False, out, 0, case.kept, case.wrong, *rest)
        wrong[i] = (slots[1] == 0) != world.same[i]
    assert not doubts[~over].any()
    assert world.p @ doubts == pytest.approx(world.p @ wrong, rel=1e-9)


@EACH
def test_greedy_is_normalised(case: Case) -> None:
    """The probabilities of all targets of one past add up to 1."""
    world = unknown_language(case)
    p = np.exp(-greedy(case))
    for t in range(L):
        past = world.x[:, : t + 1] @ 4 ** np.arange(t + 1)
        pairs, first = np.unique(np.stack([past, world.y[:, t]]), axis=1, return_index=True)
        totals = np.bincount(np.unique(pairs[0], return_inverse=True)[1], p[first, t])
        assert (totals <= 1 + 1e-9).all()
        possible = len(np.unique(world.y[:, t]))
        full = np.bincount(np.unique(pairs[0], return_inverse=True)[1]) == possible
        np.testing.assert_allclose(totals[full], 1, rtol=1e-9)
