"""Sums over sequences of losses, from which means and their standard errors are made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from metalm_proto.errors import InvalidArgument
from metalm_proto.spec import Spec
from metalm_service.core.floors.layout import layout_of

_Sums = NDArray[np.float64]


class TargetTokens(Protocol):
    """Where the targets of some samples come from; arrays [B, L]."""

    @property
    def exposure(self) -> NDArray[np.int32]: ...
    @property
    def lag(self) -> NDArray[np.int32]: ...
    @property
    def offset(self) -> NDArray[np.int32]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Estimates:
    """Means over the tokens of some bins, arrays [K]: `mean` in nats (NaN: no token), `se`, its
    standard error over sequences (NaN: fewer than two sequences have a token there), `tokens`, how
    many there were. `t95`: so many standard errors to each side are a 95 % confidence interval."""

    mean: _Sums
    se: _Sums
    tokens: NDArray[np.int64]
    t95: _Sums


class Tally:
    """Sums of the losses of several predictors over the bins of a layout.

    Sequences are independent of one another, the tokens in one are not. So a bin's mean is taken
    as the ratio of two sums over sequences, its losses over its tokens, and the variance of that
    ratio is estimated from the scatter of the sequences (linearised, as in Cochran, Sampling
    Techniques, 1977, ch. 6): with the residuals d_i = S_i - R n_i of the N sequences that have a
    token in the bin, var R = N / (N - 1) * sum d_i^2 / (sum n_i)^2, with N - 1 degrees of freedom.
    (Of one sequence the residual is 0, whatever its error.) Where each sequence has as many tokens
    in the bin, as at one position, that is the ordinary standard error.

    Memory is 3 numbers a bin and predictor, and 3 a bin, whatever the number of samples. Tallies
    add up: those of parts of a test set, merged in any order, equal that of the whole up to the
    rounding of sums in double precision.
    """

    def __init__(self, spec: Spec, names: Sequence[str]) -> None:
        self.spec, self.names, self.samples = spec, tuple(names), 0
        self.layout = layout_of(spec)
        self._counts = np.zeros((3, self.layout.size))  # sum of n, of n^2, of sequences with n > 0
        self._sums = np.zeros((3, len(self.names), self.layout.size))  # of S, of S n, of S^2

    def add(self, losses: Mapping[str, NDArray[Any]], targets: TargetTokens) -> None:
        """Takes the losses of the next samples, [B, L] in nats for each of the names."""
        indices = self.layout.indices(targets.exposure, targets.lag, targets.offset)
        count = self._binned(np.ones(indices["exposure"].shape), indices, cumulate=False)
        self._counts += count.sum(0), np.square(count).sum(0), np.count_nonzero(count, axis=0)
        self.samples += len(count)
        for row, name in enumerate(self.names):
            total = self._binned(np.asarray(losses[name], np.float64), indices, cumulate=True)
            self._sums[0, row] += total.sum(0)
            self._sums[1, row] += np.einsum("bk,bk->k", total, count)
            self._sums[2, row] += np.einsum("bk,bk->k", total, total)

    def merge(self, other: Tally) -> None:
        """Takes what another tally of other samples has. Raises InvalidArgument if it is of another
        L or of other predictors."""
        if other.names != self.names or other.spec.L != self.spec.L:
            raise InvalidArgument("names", other.names, f"{self.names} at L={self.spec.L}")
        self.samples += other.samples
        self._counts += other._counts
        self._sums += other._sums

    def estimates(self, name: str, part: str) -> Estimates:
        """The means of a predictor over the bins of a part of the layout."""
        place = self.layout.parts[part]
        tokens, squares, sequences = self._counts[:, place]
        total, cross, square = self._sums[:, self.names.index(name), place]
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = total / tokens
            scatter = np.maximum(square - 2 * mean * cross + mean * mean * squares, 0)
            se = np.sqrt(scatter * sequences / (sequences - 1)) / tokens
        se[sequences < 2] = np.nan
        return Estimates(mean, se, np.rint(tokens).astype(np.int64), _t95(sequences - 1))

    def state(self) -> dict[str, NDArray[Any]]:
        """What `from_state` needs beside spec and names."""
        samples = np.array(self.samples, np.int64)
        return {"samples": samples, "counts": self._counts.copy(), "sums": self._sums.copy()}

    @classmethod
    def from_state(
        cls, spec: Spec, names: Sequence[str], state: Mapping[str, NDArray[Any]]
    ) -> Tally:
        """A tally that goes on. Raises InvalidArgument for arrays of other shapes, and for what is
        no number."""
        tally = cls(spec, names)
        for name, mine in (("counts", tally._counts), ("sums", tally._sums)):
            given = np.asarray(state[name], np.float64)
            if given.shape != mine.shape:
                raise InvalidArgument(name, given.shape, f"of shape {mine.shape}")
            if not np.isfinite(given).all():
                raise InvalidArgument(name, "NaN or infinite", "finite")
            mine[...] = given
        tally.samples = int(state["samples"])
        return tally

    def _binned(
        self, values: _Sums, indices: Mapping[str, NDArray[np.int64]], *, cumulate: bool
    ) -> _Sums:
        """Sums of values [B, L] in the bins, [B, size]."""
        layout, parts = self.layout, self.layout.parts
        binned = np.empty((len(values), layout.size))
        segments = np.add.reduceat(values, layout.segment_starts, axis=1)
        binned[:, parts["position"]] = values
        binned[:, parts["segment"]] = segments
        # The mean of a sum over steps is one over sequences: each counts once.
        binned[:, parts["cumulative"]] = segments.cumsum(1) if cumulate else 1
        binned[:, parts["overall"]] = values.sum(1, keepdims=True)
        binned[:, parts["plateau"]] = values[:, layout.length // 2 :].sum(1, keepdims=True)
        for part, index in indices.items():
            size = parts[part].stop - parts[part].start
            # A column more takes what is in no bin.
            flat = np.where(index < 0, size, index) + (size + 1) * np.arange(len(values))[:, None]
            sums = np.bincount(flat.ravel(), values.ravel(), (size + 1) * len(values))
            binned[:, parts[part]] = sums.reshape(len(values), size + 1)[:, :size]
        return binned


def _t95(degrees: _Sums) -> _Sums:
    found, where = np.unique(degrees, return_inverse=True)
    return np.array([t95(round(one)) for one in found])[where]


def t95(degrees: int) -> float:
    """The 97.5 % quantile of Student's t; NaN below one degree of freedom.

    Exact for one and two degrees, else from the normal quantile by the series of Abramowitz and
    Stegun, 26.7.5: to 0.3 % at three degrees, and better beyond.
    """
    if degrees < 3:
        return {1: math.tan(0.475 * math.pi), 2: 0.95 * math.sqrt(2 / 0.0975)}.get(
            degrees, math.nan
        )
    z, v = 1.959963984540054, degrees
    terms = (
        z,
        (z**3 + z) / (4 * v),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3),
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4),
    )
    return sum(terms)
