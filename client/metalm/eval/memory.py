"""Effective memory: how many tokens a Bayes learner would need to remember to do as well."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from metalm.eval.report import Memory, WindowFloor

SMALLEST_WINDOW = 8

_AN_OCTAVE = 4

Floats = NDArray[np.float64]
Floors = Callable[[list[int]], dict[int, Floats]]
"""The losses of the Bayes learners with these windows on the last half of each sequence."""


def effective_memory(model: Floats, floors: Floors, length: int, t95: float) -> Memory:
    """The window whose floor equals the model's loss, of sequences of `length` tokens.

    `model`: its mean loss on the last half of each sequence, [N]. Windows are tried an octave
    apart, and four an octave where the floor crosses the model's loss or an end of the confidence
    interval; between two of them the floor is taken as linear in log W. The interval holds the
    windows whose floor is no more than `t95` standard errors from the model, paired by sequence.
    """
    windows = _octaves(length)
    found = _compared(model, floors(windows), t95)
    crossings = [_bracket(found, sign) for sign in (-1, 0, 1)]
    between = sorted(
        {w for low, high in crossings if low and high for w in _refined(low, high)} - set(windows)
    )
    if between:
        found = sorted(
            [*found, *_compared(model, floors(between), t95)], key=lambda one: one[0].window
        )
    low, equal, high = (_crossing(found, sign) for sign in (-1, 0, 1))
    smallest, largest = found[0][0].window, found[-1][0].window
    relation, tokens = "equal", equal
    if tokens is None:
        below = found[0][0].minus_model <= 0
        relation, tokens = ("below", smallest) if below else ("above", largest)
    return Memory(
        tokens=float(tokens),
        relation=relation,
        low=low,
        high=high,
        windows=tuple(one for one, _ in found),
    )


def _octaves(length: int) -> list[int]:
    octaves = [SMALLEST_WINDOW << i for i in range(max(0, length.bit_length()))]
    return [window for window in octaves if window < length] + [length]


def _refined(low: int, high: int) -> Iterable[int]:
    steps = max(1, round(_AN_OCTAVE * float(np.log2(high / low))))
    return (round(low * (high / low) ** (i / steps)) for i in range(1, steps))


_Compared = list[tuple[WindowFloor, float]]
"""Floors with half their confidence interval."""


def _compared(model: Floats, floors: dict[int, Floats], t95: float) -> _Compared:
    found: _Compared = []
    for window, floor in sorted(floors.items()):
        difference = floor - model
        mean = float(difference.mean())
        se = float(difference.std(ddof=1) / np.sqrt(len(model))) if len(model) > 1 else None
        found.append(
            (WindowFloor(window, float(floor.mean()), mean, se), 0.0 if se is None else t95 * se)
        )
    return found


def _bracket(found: _Compared, sign: int) -> tuple[int | None, int | None]:
    """The windows between which the floor, moved by so many half intervals, crosses the model."""
    heights = [one.minus_model + sign * half for one, half in found]
    for i in range(1, len(found)):
        if heights[i - 1] > 0 >= heights[i]:
            return found[i - 1][0].window, found[i][0].window
    return None, None


def _crossing(found: _Compared, sign: int) -> float | None:
    """Where it crosses, linear in log W; None where it does not."""
    low, high = _bracket(found, sign)
    if low is None or high is None:
        return None
    heights = {one.window: one.minus_model + sign * half for one, half in found}
    share = heights[low] / (heights[low] - heights[high])
    return float(low * (high / low) ** share)
