"""What everyone knows, and what noisy copies tell of an element, in numpy.

The first part of `reference.py`. A table of an element is float64 [length, V + 2], the distribution
of its token at each offset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metalm_proto.spec import Spec
from metalm_service.core.floors.channel import Channel, Floats, Lengths
from metalm_service.core.floors.streams import Ints


@dataclass(frozen=True, slots=True)
class World:
    """What every predictor knows: the spec, and what follows from it."""

    spec: Spec
    channel: Channel
    lengths: Lengths

    @classmethod
    def of(cls, spec: Spec) -> World:
        return cls(spec, Channel.of(spec), Lengths.of(spec.l, spec.L))

    def likelihood(self, token: int) -> Floats:
        """P(x = token | clean = v) for v = 0 .. V+1, where v is one of the symbols."""
        channel = self.channel
        if token == self.spec.mask_id:
            return np.full(self.spec.vocabulary, channel.masked)
        row = np.full(self.spec.vocabulary, channel.wrong)
        row[token] = channel.kept
        return row

    def unknown(self) -> Floats:
        """The distribution of a token of which nothing was heard."""
        p = np.zeros(self.spec.vocabulary)
        p[1 : self.channel.symbols + 1] = 1 / self.channel.symbols
        return p


def posterior(world: World, copies: Sequence[Ints]) -> Floats:
    """P(token | copies), proportional to the likelihood of what was heard; masks count nothing."""
    table = np.zeros((len(copies[0]), world.spec.vocabulary))
    for j, heard in enumerate(np.array(copies).T):
        with np.errstate(divide="ignore"):
            logs = np.log(world.unknown())
            for token in heard[heard > 0]:
                logs = logs + np.log(world.likelihood(token))
        weights = np.exp(logs - logs.max())
        table[j] = weights / weights.sum()
    return table


def posterior_of_last(world: World, copies: Sequence[Ints]) -> Floats:
    """P(token | the most recent copy)."""
    return posterior(world, copies[-1:])


def shares(world: World, copies: Sequence[Ints]) -> Floats:
    """The share of each symbol among the copies and one more, which says all symbols equally."""
    table = np.tile(world.unknown(), (len(copies[0]), 1))
    for copy in copies:
        heard = np.flatnonzero(copy > 0)
        table[heard, copy[heard]] += 1
    result: Floats = table / table.sum(axis=1, keepdims=True)
    return result
