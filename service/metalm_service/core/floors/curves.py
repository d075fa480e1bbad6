"""Losses of the predictors, position by position."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metalm_proto.spec import BatchRequest, Spec, Split
from metalm_service.core.floors import predictors as named
from metalm_service.core.floors.channel import Channel, Floats, Lengths
from metalm_service.core.floors.streams import Elements, Stream, language, stream

Losses = NDArray[np.float32]


def losses(
    spec: Spec,
    seed: int,
    split: Split,
    first: int,
    count: int,
    predictors: Sequence[str],
    proceed: Callable[[], None] = lambda: None,
    doubts: Floats | None = None,
) -> dict[str, Losses]:
    """-ln p(y[t] | x[0..t]) in nats of each predictor, float32 [count, L], on the samples
    [first, first + count).

    Predictors: see `metalm_service.core.floors`. `proceed` is called before every sample, and what
    it raises ends the work. `doubts`, float64 [count], receives how sure greedy, if it is asked
    for, was of its elements: the probabilities that each was another one, given those before,
    added up. Raises InvalidArgument for a name that is no predictor, or for samples
    that there are not, and ModuleNotFoundError without numba.
    """
    names = named.checked(predictors)
    asked = BatchRequest.single(spec=spec, seed=seed, split=split, first=first, size=count)
    if find_spec("numba") is None:
        raise ModuleNotFoundError("the floors need numba: pip install '.[core]'")
    result = {name: np.empty((count, spec.L), np.float32) for name in names}
    task = _Task.of(spec)
    elements: Elements | None = None
    for row, index in enumerate(range(asked.start, asked.stop)):
        proceed()
        sample = stream(spec, seed, split, index)
        if named.KNOWN in names and (elements is None or spec.language is None):
            elements = language(spec, seed, split, index, proceed)
        for name, rows in result.items():
            doubt = task.fill(name, sample, elements, rows[row])
            if doubts is not None and name == named.GREEDY:
                doubts[row] = doubt
    return result


def warm() -> None:
    """Compiles the kernels, or loads them from the cache."""
    names = (*named.LADDER, "bayes-2")
    losses(Spec(V=3, n=2, l=3, L=9), 0, Split.TRAIN, 0, 1, names)


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """What the samples of one request have in common."""

    spec: Spec
    channel: Channel
    lengths: Lengths
    powers: Floats
    falling: bool

    @classmethod
    def of(cls, spec: Spec) -> _Task:
        channel = Channel.of(spec)
        powers, falling = _powers(channel.ratio, spec.L // 4 + 2)
        return cls(spec, channel, Lengths.of(spec.l, spec.L), powers, falling)

    def fill(self, name: str, sample: Stream, elements: Elements | None, out: Losses) -> float:
        """out [L] = the losses of one predictor on one sample; elements: what `known` knows.
        Returns the doubt of those that have to find out which elements they heard."""
        if name == named.UNIFORM:
            out[:] = math.log(self.channel.symbols + 1)
        elif name == named.CONTENT_FREE:
            self._content_free(sample, out)
        elif name == named.KNOWN:
            assert elements is not None
            self._known(sample, elements, out)
        elif name == named.SUFFIX:
            self._suffix(sample, out)
        elif (window := named.window_of(name)) is not None:
            self._windowed(sample, window, out)
        else:
            return self._bayes(name, sample, out)
        return 0.0

    def _content_free(self, sample: Stream, out: Losses) -> None:
        positions = np.arange(1, self.spec.L + 1)
        repetition = np.searchsorted(sample.starts, positions, side="right") - 1
        offset = positions - sample.starts[repetition]
        offset = np.minimum(offset, len(self.lengths.ends) - 1)
        p = np.where(
            sample.y == self.spec.separator_id,
            self.lengths.ends[offset],
            self.lengths.goes_on[offset] / self.channel.symbols,
        )
        out[:] = -np.log(np.maximum(p, 1e-300))

    def _known(self, sample: Stream, elements: Elements, out: Losses) -> None:
        tokens, bounds = elements
        kept, wrong = self.channel.kept, self.channel.wrong
        separator = self.spec.separator_id
        _kernel("known")(sample.x, sample.y, tokens, bounds, out, kept, wrong, separator)

    def _bayes(self, name: str, sample: Stream, out: Losses) -> float:
        from metalm_service.core.floors.bayes import COUNTS, LAST, SHARES

        channel = self.channel
        memory = {named.LAST_COPY: LAST, named.VOTE: SHARES}.get(name, COUNTS)
        kept, wrong = (1.0, 0.0) if name == named.VOTE else (channel.kept, channel.wrong)
        doubt: float = _kernel("bayes")(
            sample.x,
            sample.y,
            sample.slots,
            name == named.GENIE,
            out,
            memory,
            kept,
            wrong,
            float(channel.symbols),
            channel.elements,
            self.powers,
            self.falling,
            self.lengths.ends,
            self.lengths.goes_on,
            self.spec.separator_id,
        )
        return doubt

    def _windowed(self, sample: Stream, width: int, out: Losses) -> None:
        channel = self.channel
        _kernel("window")(
            sample.x,
            sample.y,
            sample.slots,
            out,
            min(width, self.spec.L),
            channel.kept,
            channel.wrong,
            float(channel.symbols),
            channel.elements,
            self.powers,
            self.falling,
            self.lengths.ends,
            self.lengths.goes_on,
            self.spec.separator_id,
        )

    def _suffix(self, sample: Stream, out: Losses) -> None:
        _kernel("suffix")(sample.x, sample.y, out, float(self.channel.symbols))


def _powers(ratio: float, count: int) -> tuple[Floats, bool]:
    """max(ratio, 1/ratio)^-d for d = 0 .. count-1, and whether the ratio is below 1."""
    falling = ratio < 1
    base = ratio if falling else 1 / ratio
    return base ** np.arange(count, dtype=np.float64), falling


def _kernel(name: str) -> Callable[..., Any]:
    """The kernel of that name, from the module of that name: numba is loaded when it is needed."""
    from metalm_service.core.compiling import compiled

    return compiled(getattr(import_module(f"metalm_service.core.floors.{name}"), name))
