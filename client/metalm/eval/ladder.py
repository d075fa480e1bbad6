"""Floors of a range of samples, for whoever has no model yet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from metalm.eval.evaluation_set import EvaluationSet
from metalm.eval.report import Estimate, Table
from metalm.eval.reporting import curve_table, estimate
from metalm_proto.spec import SEED, SPLIT, Spec, Split


@dataclass(frozen=True, kw_only=True, slots=True)
class Floors:
    """Mean losses of the reference predictors, in nats per predicted token.

    `exact_samples`: on so many samples the Bayes floor is known exactly; None where genie and
    greedy were not both asked for. `overall`: each predictor's mean. `tables`: position (one bin a
    step), segment (128 steps, in sequences of less than 4096 fewer), cumulative (sums up to the end
    of each segment), exposure, lag, offset, each with a curve a predictor. `document`: the JSON
    that `write` writes, and that a service answers with.
    """

    evaluation_set: EvaluationSet
    exact_samples: int | None
    overall: dict[str, Estimate]
    tables: dict[str, Table]
    document: dict[str, Any]

    @property
    def exact(self) -> bool:
        """Whether the Bayes floor is known exactly, on each of the sequences."""
        return self.exact_samples == self.evaluation_set.samples

    def write(self, path: str | Path) -> None:
        """Writes the JSON to a file, which appears when it is complete. Raises OSError."""
        from metalm.files.disk import opened

        with opened(str(path)) as stream:
            stream.write(json.dumps(self.document, allow_nan=False).encode() + b"\n")


def floors(
    spec: Spec,
    seed: int,
    split: Split | str = Split.TEST,
    samples: int = 64,
    *,
    first: int = 0,
    predictors: Sequence[str] | None = None,
) -> Floors:
    """The floors of the samples [first, first + samples) of a stream, on all cores.

    `predictors`: names of `metalm_service.core.floors`, the whole ladder unless told otherwise.
    Raises InvalidArgument for a value out of bounds and for a name that there is not;
    ModuleNotFoundError without numba.

    >>> from metalm import Spec
    >>> from metalm.eval import floors
    >>> found = floors(Spec(V=64, n=5, l=32, L=1024), seed=7, samples=16)
    >>> found.exact, [round(found.overall[name].mean, 2) for name in ("uniform", "greedy", "known")]
    (True, [4.17, 0.84, 0.05])
    """
    from metalm_service.core.floors import LADDER
    from metalm_service.core.floors.summary import summarise

    summary = summarise(
        spec, SEED.check(seed), SPLIT.check(split), first, samples, predictors or LADDER
    )
    names = summary.predictors
    parts = [part for part in summary.tally.layout.parts if part not in ("overall", "plateau")]
    return Floors(
        evaluation_set=EvaluationSet(
            spec=spec, seed=seed, split=summary.split, ranges=((first, first + samples),)
        ),
        exact_samples=summary.exact,
        overall={name: estimate(summary.tally, name, "overall") for name in names},
        tables={part: curve_table(summary.tally, part, names) for part in parts},
        document={**summary.as_dict(), "version": version("metalm")},
    )
