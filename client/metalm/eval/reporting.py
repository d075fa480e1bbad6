"""From sums to a report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metalm.eval.evaluation_set import EvaluationSet
from metalm.eval.memory import effective_memory
from metalm.eval.presets import preset_of
from metalm.eval.report import (
    Cumulative,
    Curve,
    Estimate,
    Excess,
    Memory,
    Report,
    Score,
    Table,
)

_LADDER_TABLES = ("segment",)
_PAIRED = {"over_greedy": "over-greedy", "over_genie": "over-genie"}
_DIGITS = 6

Floats = NDArray[np.float64]


def make_report(
    tally: Any,
    evaluation_set: EvaluationSet,
    *,
    sequences: Floats,
    exact: int,
    label: str | None,
    ladder: bool,
    memory: bool,
) -> Report:
    """`tally`: an evaluator's. `sequences`: float64 [2, samples], the model's mean loss on each
    sample in the order of the set, over all positions and over the last half."""
    from metalm_service.core.floors import LADDER
    from metalm_service.core.floors.summary import closed_forms

    names = tally.names
    tables = {
        part: curve_table(tally, part, names) for part in tally.layout.parts if _is_table(part)
    }
    floors = {name: estimate(tally, name, "overall") for name in ("greedy", "genie", "known")}
    if ladder:
        others = tuple(name for name in LADDER if name not in names)
        summed = _ladder(evaluation_set, others)
        floors |= {name: estimate(summed, name, "overall") for name in others}
        for part in _LADDER_TABLES:
            tables[part].curves.update(curve_table(summed, part, others).curves)
    found = preset_of(evaluation_set)
    forms = closed_forms(evaluation_set.spec)
    cost = forms["learning_cost_nats"]
    over_greedy, over_genie = (_total(tally, name) for name in _PAIRED.values())
    return Report(
        evaluation_set=evaluation_set,
        sha256=evaluation_set.sha256(),
        preset=None if found is None else found.name,
        label=label,
        version=version("metalm"),
        exact_samples=exact,
        overall=Score.of(estimate(tally, "model", "overall")),
        last_half=estimate(tally, "model", "plateau"),
        excess=_excess(tally, "overall"),
        excess_last_half=_excess(tally, "plateau"),
        cumulative=Cumulative(
            over_greedy=over_greedy,
            over_genie=over_genie,
            learning_cost_nats=cost,
            over_greedy_languages=over_greedy.mean / cost if cost else None,
            over_genie_languages=over_genie.mean / cost if cost else None,
        ),
        memory=_memory(tally, evaluation_set, sequences[1]) if memory else None,
        closed_forms=forms,
        floors=floors,
        tables=tables,
        sequences={
            "nll_nats": tuple(sequences[0].tolist()),
            "last_half_nats": tuple(sequences[1].tolist()),
        },
    )


def _is_table(part: str) -> bool:
    return part not in ("overall", "plateau")


def _memory(tally: Any, evaluation_set: EvaluationSet, model: Floats) -> Memory:
    """From the genie with windows, on the same samples."""

    def floors(windows: list[int]) -> dict[int, Floats]:
        names = tuple(f"bayes-{window}" for window in windows)
        spec, seed, split = evaluation_set.spec, evaluation_set.seed, evaluation_set.split
        parts = [
            _last_halves(spec, seed, split, start, stop - start, names)
            for start, stop in evaluation_set.ranges
        ]
        return {
            window: np.concatenate([part[name] for part in parts])
            for window, name in zip(windows, names, strict=True)
        }

    t95 = float(tally.estimates("model", "overall").t95[0])
    return effective_memory(model, floors, evaluation_set.spec.L, t95)


@lru_cache(maxsize=64)
def _last_halves(*place: Any) -> dict[str, Floats]:
    from metalm_service.core.floors.summary import sequence_floors

    return {name: means[1] for name, means in sequence_floors(*place).items()}


def _ladder(evaluation_set: EvaluationSet, names: tuple[str, ...]) -> Any:
    """The tally of these predictors on the set."""
    from metalm_service.core.floors.tally import Tally

    spec, seed, split = evaluation_set.spec, evaluation_set.seed, evaluation_set.split
    summed = Tally(spec, names)
    for start, stop in evaluation_set.ranges:
        summed.merge(_summary(spec, seed, split, start, stop - start, names).tally)
    return summed


@lru_cache(maxsize=4)
def _summary(*place: Any) -> Any:
    from metalm_service.core.floors.summary import summarise

    return summarise(*place)


def curve_table(tally: Any, part: str, names: Sequence[str]) -> Table:
    """A part of the layout, without the bins that no token is in."""
    tokens = tally.estimates(names[0], part).tokens
    kept = tokens > 0
    bins = [one for one, keep in zip(tally.layout.bins(part), kept, strict=True) if keep]
    curves = {name: _curve(tally.estimates(name, part), kept) for name in names}
    return Table(tuple(bins), tuple(tokens[kept].tolist()), curves)


def _curve(estimates: Any, kept: NDArray[np.bool_]) -> Curve:
    means, errors = estimates.mean[kept], estimates.se[kept]
    return Curve(_numbers(means), _numbers(errors), _numbers(errors * estimates.t95[kept]))


def _numbers(values: Floats) -> tuple[float | None, ...]:
    """Rounded to 1e-6 nats, and None for NaN."""
    rounded = np.round(values, _DIGITS).tolist()
    return tuple(None if math.isnan(value) else value for value in rounded)


def estimate(tally: Any, name: str, part: str, place: int = 0) -> Estimate:
    found = tally.estimates(name, part)
    se = float(found.se[place])
    if math.isnan(se):
        return Estimate(float(found.mean[place]), None, None)
    return Estimate(float(found.mean[place]), se, se * float(found.t95[place]))


def _excess(tally: Any, part: str) -> Excess:
    return Excess(**{field: estimate(tally, name, part) for field, name in _PAIRED.items()})


def _total(tally: Any, name: str) -> Estimate:
    """The sum over a whole sequence."""
    return estimate(tally, name, "cumulative", -1)
