"""What a request for floors will cost, from the request alone.

Seconds are upper bounds for a core of a server of 2020 or newer, the compiler's work apart:
`tests/core/test_floors_cost.py` compares them with what the dearest specs take.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from metalm_proto.spec import Spec
from metalm_service.core.cost import longest_element
from metalm_service.core.floors import predictors as named
from metalm_service.core.floors.channel import Channel
from metalm_service.core.floors.closed import mean_length
from metalm_service.core.poisson import MINIMUM_LENGTH

_NANO = 1e-9
_DROPPED_AFTER = 42.0
"""Nats of evidence against a candidate after which it is not looked at again."""


@dataclass(frozen=True, slots=True)
class FloorsCost:
    """`result_bytes`: of the arrays of losses, exact. `scratch_bytes`: what is needed beside them,
    an upper bound. `cpu_s`: seconds of a core, an upper bound."""

    samples: int
    tokens: int
    result_bytes: int
    scratch_bytes: int
    cpu_s: float


def cost_of(spec: Spec, count: int, predictors: Sequence[str]) -> FloorsCost:
    """The cost of `losses` for `count` samples. Raises InvalidArgument for a name that is no
    predictor."""
    names = named.checked(predictors)
    shape = _Shape.of(spec)
    sample_s = 4e-4 + spec.L * 80 * _NANO
    sample_s += sum(5e-5 + spec.L * shape.token_ns(name) * _NANO for name in names)
    once_s = 3e-3 + 300 * _NANO * min(spec.L, longest_element(spec.l)) + 30 * _NANO * spec.l
    if named.KNOWN in names:
        language_s = spec.n * (1 + 0.2 * max(spec.l, MINIMUM_LENGTH)) * 1e-6 + 2e-4
        if spec.language is None:
            sample_s += language_s
        once_s += language_s
    return FloorsCost(
        samples=count,
        tokens=count * spec.L,
        result_bytes=4 * count * spec.L * len(names),
        scratch_bytes=_scratch_bytes(spec, names),
        cpu_s=once_s + count * sample_s,
    )


@dataclass(frozen=True, slots=True)
class _Shape:
    """What decides how much work a token is.

    `repetitions` of a sample; `known`, elements that are heard in it; `symbols` that are heard at
    one place; `compared`, the share of an element's tokens on which all candidates are compared.
    """

    spec: Spec
    repetitions: float
    known: float
    symbols: float
    compared: float

    @classmethod
    def of(cls, spec: Spec) -> _Shape:
        channel = Channel.of(spec)
        whole = mean_length(spec) + 1
        repetitions = spec.L / whole + 1
        known = min(spec.usable_elements, repetitions)
        errors = (channel.symbols - 1) * channel.wrong
        symbols = min(channel.symbols, 1 + errors * repetitions / known)
        evidence = (channel.kept - channel.wrong) ** 2
        evidence *= min(math.log(channel.ratio) if channel.ratio > 1 else 0, math.log(spec.V))
        tokens = 3 + _DROPPED_AFTER / evidence if evidence else whole
        return cls(spec, repetitions, known, symbols, min(1.0, tokens / whole))

    def token_ns(self, name: str) -> float:
        """Nanoseconds of a core for each token."""
        candidates, chain = self.known * self.compared, self.symbols
        if name == named.UNIFORM:
            return 5
        if name == named.CONTENT_FREE:
            return 120
        if name == named.SUFFIX:
            return 300 if self.spec.L <= 2**14 else 2000
        if name == named.KNOWN:
            # Most candidates fall at once: what is seldom heard lies in no cache.
            return 60 + 15 * self.spec.usable_elements * self.compared
        window = named.window_of(name)
        if window is not None:
            repetitions = window / (mean_length(self.spec) + 1) + 2
            inside = min(self.known, repetitions)
            chain = min(chain, 1 + repetitions / inside)
            return 250 + 60 * chain + inside * (40 + 4 * chain)
        if name == named.LAST_COPY:
            chain = 1
        # Greedy splits elements now and then, and then knows more than there are.
        return 90 + 20 * chain + 1.5 * candidates * (20 + 3 * chain)


def _scratch_bytes(spec: Spec, names: Sequence[str]) -> int:
    most = 2**16 + spec.L * 200
    if named.SUFFIX in names:
        most = 2**16 + spec.L * 600
    if named.KNOWN in names:
        most += spec.n * (longest_element(spec.l) * (spec.dtype.itemsize + 4) + 64) + 2**24
    return most
