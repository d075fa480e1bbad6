"""The predictors in numpy, as whole distributions: the kernels are tested against them.

Written to be read beside `tables.py`, for samples of some hundred tokens over a small vocabulary.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from metalm_proto.spec import Spec, Split
from metalm_service.core.floors import predictors as named
from metalm_service.core.floors.channel import Floats
from metalm_service.core.floors.streams import Ints, Stream, language, stream
from metalm_service.core.floors.tables import World, posterior, posterior_of_last, shares

SUFFIX_ORDER = 4

Table = Callable[[World, Sequence[Ints]], Floats]


def losses(spec: Spec, seed: int, split: Split, index: int, name: str) -> Floats:
    """-ln p(y[t] | x[0..t]) of a predictor on one sample, float64 [L]."""
    p = distributions(spec, seed, split, index, name)
    y = stream(spec, seed, split, index).y
    loss: Floats = -np.log(p[np.arange(spec.L), y])
    return loss


def distributions(spec: Spec, seed: int, split: Split, index: int, name: str) -> Floats:
    """p(. | x[0..t]) of a predictor on one sample, float64 [L, V + 2]."""
    world, sample = World.of(spec), stream(spec, seed, split, index)
    if name == named.UNIFORM:
        p = np.full((spec.L, spec.vocabulary), 1 / (world.channel.symbols + 1))
        p[:, spec.mask_id] = p[:, world.channel.symbols + 1 : spec.separator_id] = 0
        return p
    if name == named.CONTENT_FREE:
        return _listen(world, sample.x, _Nobody())
    if name == named.SUFFIX:
        return suffix(world, sample.x)
    if name == named.KNOWN:
        return _listen(world, sample.x, _Native(world, *language(spec, seed, split, index)))
    window = named.window_of(name)
    if window is not None:
        return windowed(world, sample, window)
    slots = sample.slots if name == named.GENIE else None
    table = {named.VOTE: shares, named.LAST_COPY: posterior_of_last}.get(name, posterior)
    return _listen(world, sample.x, _Learner(world, table, slots))


class _Nobody:
    """No candidate but an element that was never heard."""

    tables: Sequence[Floats] = ()
    new = 1.0
    knows_channel = True

    def ended(self, copy: Ints, weights: Floats) -> None:
        """A repetition ended; weights [candidates + 1] are the last one's, the new one's last."""


class _Native:
    """Knows the language."""

    new = 0.0
    knows_channel = True

    def __init__(self, world: World, tokens: Ints, bounds: NDArray[np.int64]) -> None:
        eye = np.eye(world.spec.vocabulary)
        self.tables = [eye[element] for element in np.split(tokens, bounds[1:-1])]

    def ended(self, copy: Ints, weights: Floats) -> None:
        """It has nothing to learn."""


@dataclass(slots=True)
class _Learner:
    """Learns from the copies of each element; `slots`: the element of each repetition, if told."""

    world: World
    table: Table
    slots: Ints | None
    copies: list[list[Ints]] = field(default_factory=list)
    tables: list[Floats] = field(default_factory=list)
    repetitions: int = 0
    wrong_splits: float = 0.0

    @property
    def knows_channel(self) -> bool:
        return self.table is not shares

    @property
    def new(self) -> float:
        """Weight of an element that was never heard, where each other one has 1."""
        unheard = self.world.channel.elements - len(self.copies)
        if self.slots is None and unheard <= 0:
            return self.wrong_splits if self.wrong_splits > named.SURE else named.DOUBT
        return float(unheard)

    def ended(self, copy: Ints, weights: Floats) -> None:
        if self.slots is not None:
            slot = int(self.slots[self.repetitions])
        else:
            slot = self._most_probable(copy, weights)
        self.repetitions += 1
        if slot == len(self.copies):
            self.copies.append([])
            self.tables.append(np.empty(0))
        self.copies[slot].append(copy)
        self.tables[slot] = self.table(self.world, self.copies[slot])

    def _most_probable(self, copy: Ints, weights: Floats) -> int:
        new = len(self.copies)
        found, best = new, 0.0
        joint = weights * np.array([len(table) == len(copy) for table in self.tables] + [True])
        joint[-1] *= self.world.lengths.ends[len(copy)]
        for slot, weight in enumerate(joint):
            if weight > best * named.CLEARLY:
                found, best = slot, weight
        if found == new and joint[:-1].any():
            self.wrong_splits += joint[:-1].sum() / joint.sum()
        return found


def _listen(world: World, x: Ints, who: _Nobody | _Native | _Learner) -> Floats:
    """p(. | x[0..t]) for each t: a mixture over which element is being spoken."""
    spec, lengths = world.spec, world.lengths
    p = np.zeros((spec.L, spec.vocabulary))
    weights = _fresh(who)
    start = 0
    for t, token in enumerate(x):
        j = t - start
        if token == spec.separator_id:
            who.ended(x[start:t], weights)
            weights, start = _fresh(who), t + 1
        else:
            channel = world.likelihood(token)
            if not who.knows_channel:
                channel = np.ones(spec.vocabulary) * (token == 0)
                channel[token] = 1
            for c, table in enumerate(who.tables):
                weights[c] *= table[j] @ channel if j < len(table) else 0
            weights[-1] *= lengths.goes_on[j] * (world.unknown() @ channel)
        weights = weights / weights.sum()
        p[t] = _mixture(world, weights, who.tables, t + 1 - start)
    return p


def _fresh(who: _Nobody | _Native | _Learner) -> Floats:
    weights = np.append(np.ones(len(who.tables)), who.new)
    result: Floats = weights / weights.sum()
    return result


def _mixture(world: World, weights: Floats, tables: Sequence[Floats], j: int) -> Floats:
    """The distribution at offset j; weights [candidates + 1], those of the new one last."""
    spec, lengths = world.spec, world.lengths
    p = weights[-1] * lengths.goes_on[j] * world.unknown()
    p[spec.separator_id] = weights[-1] * lengths.ends[j]
    for weight, table in zip(weights, tables, strict=False):
        if j < len(table):
            p += weight * table[j]
        elif j == len(table):
            p[spec.separator_id] += weight
    result: Floats = p
    return result


def windowed(world: World, sample: Stream, window: int) -> Floats:
    """The genie that sees x[t-W+1 .. t] alone, and of these the elements and offsets: at each t
    everything is computed anew."""
    spec = world.spec
    p = np.zeros((spec.L, spec.vocabulary))
    for t in range(spec.L):
        oldest = max(0, t + 1 - window)
        seen = np.where(np.arange(t + 1) >= oldest, sample.x[: t + 1], 0)
        copies = defaultdict(list)
        current = int(np.searchsorted(sample.starts, t + 1, side="right")) - 1
        for r in range(current):
            begin, end = sample.starts[r], sample.starts[r + 1] - 1
            if end >= oldest:
                copies[sample.slots[r]].append(seen[begin:end])
        tables = [posterior(world, heard) for heard in copies.values()]
        weights = np.append(np.ones(len(tables)), world.channel.elements - len(tables))
        start = sample.starts[current]
        for j, token in enumerate(seen[start:]):
            channel = world.likelihood(token) if start + j >= oldest else np.ones(spec.vocabulary)
            for c, table in enumerate(tables):
                weights[c] *= table[j] @ channel if j < len(table) else 0
            weights[-1] *= world.lengths.goes_on[j] * (world.unknown() @ channel)
            weights = weights / weights.sum()
        p[t] = _mixture(world, weights / weights.sum(), tables, t + 1 - start)
    return p


def suffix(world: World, x: Ints) -> Floats:
    """Interpolated Witten-Bell: how often each token followed the last 4, 3, ... 0 tokens.

    A mask is a context like any token, but follows nothing: what was said there is not known.
    """
    spec = world.spec
    base = np.zeros(spec.vocabulary)
    base[1 : world.channel.symbols + 1] = base[spec.separator_id] = 1 / (world.channel.symbols + 1)
    followers: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    p = np.zeros((spec.L, spec.vocabulary))
    for t, token in enumerate(x):
        if token != spec.mask_id:
            for order in range(min(SUFFIX_ORDER, t) + 1):
                followers[tuple(x[t - order : t])][int(token)] += 1
        p[t] = base
        for order in range(min(SUFFIX_ORDER, t + 1) + 1):
            counts = followers.get(tuple(x[t + 1 - order : t + 1]))
            if counts:
                p[t] *= len(counts)
                for follower, count in counts.items():
                    p[t, follower] += count
                p[t] /= len(counts) + counts.total()
    return p
