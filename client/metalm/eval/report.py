"""What an evaluation found, as values and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from metalm.eval.evaluation_set import EvaluationSet
from metalm_proto.errors import InvalidArgument
from metalm_proto.spec import GENERATOR, Spec

SCHEMA = "metalm-report-1"

Numbers = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean in nats, its standard error over sequences, and half the width of its 95 % confidence
    interval; None where there are too few sequences to say."""

    mean: float
    se: float | None
    ci95: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """The loss of a model: the mean over all positions of all sequences.

    `nll_nats`, `nll_bits` a token; `ppl` = exp(nll_nats), None beyond what a double holds.
    `se_nats`, `ci95_nats`: its standard error over sequences and its 95 % confidence interval;
    None for a single sequence.
    """

    nll_nats: float
    nll_bits: float
    ppl: float | None
    se_nats: float | None
    ci95_nats: tuple[float, float] | None

    @classmethod
    def of(cls, estimate: Estimate) -> Score:
        mean, half = estimate.mean, estimate.ci95
        return cls(
            nll_nats=mean,
            nll_bits=mean / math.log(2),
            ppl=math.exp(mean) if mean < 700 else None,
            se_nats=estimate.se,
            ci95_nats=None if half is None else (mean - half, mean + half),
        )


@dataclass(frozen=True, slots=True)
class Curve:
    """Means in nats over some bins, their standard errors over sequences, and half the widths of
    their 95 % confidence intervals; None where there is nothing to tell it from."""

    mean: Numbers
    se: Numbers
    ci95: Numbers


@dataclass(frozen=True, slots=True)
class Table:
    """Curves over the same bins. `bins`: "from" (in) and "to" (out, None: no end) of each, and of
    the exposure where that is fixed too. `tokens`: how many each has, of all sequences together.
    `curves`: "model", the predictors, and "over-greedy" and "over-genie", the model's excess."""

    bins: tuple[dict[str, int | None], ...]
    tokens: tuple[int, ...]
    curves: dict[str, Curve]


@dataclass(frozen=True, slots=True)
class WindowFloor:
    """The Bayes floor of a memory of `window` tokens on the last half of the sequences, and how far
    above the model's loss there it is (`minus_model`, paired by sequence)."""

    window: int
    nll_nats: float
    minus_model: float
    se: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """W*, the window whose Bayes floor equals the model's loss on the last half of the sequences.

    `relation`: "equal" to `tokens`; "below" `tokens`, the smallest window that was computed, which
    does better than the model already; "above": the model does as well as the Bayes learner that
    remembers all L `tokens`, or better. `low`, `high`: a 95 % confidence interval, None at an end
    that cannot be told from the smallest or from the largest window.
    """

    tokens: float
    relation: str
    low: float | None
    high: float | None
    windows: tuple[WindowFloor, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Excess:
    """How far the model is above the Bayes learner, paired token by token: at most `over_genie`, at
    least `over_greedy`, in nats a token; the same where the floor is exact."""

    over_greedy: Estimate
    over_genie: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Cumulative:
    """The excess over the Bayes learner summed over a sequence, in nats (see `Excess`), and divided
    by `learning_cost_nats`, what it costs to learn a language, k l sum of h_c; None where that
    costs nothing, for elements of a single symbol."""

    over_greedy: Estimate
    over_genie: Estimate
    learning_cost_nats: float
    over_greedy_languages: float | None
    over_genie_languages: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """`client/EVALUATION.md` defines every figure. Losses are nats per predicted token.

    `sha256`: of the samples, see `EvaluationSet.sha256`; `preset`: their name, if they have one.
    `exact_samples`: on so many of them the Bayes floor is known exactly. `last_half`: the loss at
    the positions from L // 2 on. `tables`: position (one bin a step), segment (128 steps, in
    sequences of less than 4096 fewer), cumulative (sums up to the end of each segment), exposure,
    lag, offset. `sequences`: the model's mean loss on each sample, in the order of their index,
    over all positions and over the last half.
    """

    evaluation_set: EvaluationSet
    sha256: str
    preset: str | None
    label: str | None
    version: str
    exact_samples: int
    overall: Score
    last_half: Estimate
    excess: Excess
    excess_last_half: Excess
    cumulative: Cumulative
    memory: Memory | None
    closed_forms: dict[str, float]
    floors: dict[str, Estimate]
    tables: dict[str, Table]
    sequences: dict[str, tuple[float, ...]] = field(repr=False)

    @property
    def samples(self) -> int:
        return self.evaluation_set.samples

    @property
    def exact(self) -> bool:
        """Whether the Bayes floor is known exactly, on each of the sequences."""
        return self.exact_samples == self.samples

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON types, as `report_schema()` describes them."""
        parts = {one.name: getattr(self, one.name) for one in fields(self)}
        del parts["evaluation_set"]
        return {"schema": SCHEMA, **self.evaluation_set.as_dict(), **_plain(parts)}

    def write(self, path: str | Path) -> None:
        """Writes the JSON to a file, which appears when it is complete. Raises OSError."""
        from metalm.files.disk import opened

        with opened(str(path)) as stream:
            stream.write(json.dumps(self.as_dict(), allow_nan=False).encode() + b"\n")

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Report:
        """The report that `as_dict` told. Raises InvalidArgument for what is none."""
        try:
            return _report(told)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            bound = f"a report of the schema {SCHEMA} ({type(error).__name__}: {error})"
            raise InvalidArgument("report", told.get("schema"), bound) from error


def read_report(path: str | Path) -> Report:
    """The report in a JSON file. Raises InvalidArgument for what is none."""
    try:
        told = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidArgument("report", str(path), f"a file of JSON ({error})") from error
    if not isinstance(told, dict):
        raise InvalidArgument("report", str(path), "a JSON object")
    return Report.from_dict(told)


def report_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a report."""
    schema: dict[str, Any] = json.loads((files("metalm.eval") / "report.schema.json").read_text())
    return schema


def _plain(value: Any) -> Any:
    """As plain JSON types. Tuples of numbers stay the tuples that they are: they may be long."""
    if is_dataclass(value):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, tuple) and value and is_dataclass(value[0]):
        return [_plain(one) for one in value]
    return value


def _report(told: Mapping[str, Any]) -> Report:
    if told["schema"] != SCHEMA or told["generator"] != GENERATOR:
        raise ValueError(f"schema {told['schema']}, generator {told['generator']}")
    memory = told["memory"]
    ci95 = told["overall"]["ci95_nats"]
    return Report(
        evaluation_set=EvaluationSet(
            spec=Spec(**told["spec"]),
            seed=told["seed"],
            split=told["split"],
            ranges=tuple((start, stop) for start, stop in told["ranges"]),
        ),
        **{name: told[name] for name in ("sha256", "preset", "label", "version")},
        exact_samples=told["exact_samples"],
        overall=Score(**{**told["overall"], "ci95_nats": ci95 and tuple(ci95)}),
        last_half=Estimate(**told["last_half"]),
        excess=Excess(**_estimates(told["excess"])),
        excess_last_half=Excess(**_estimates(told["excess_last_half"])),
        cumulative=Cumulative(**_estimates(told["cumulative"])),
        memory=memory and Memory(**{**memory, "windows": _windows(memory["windows"])}),
        closed_forms=dict(told["closed_forms"]),
        floors=_estimates(told["floors"]),
        tables={name: _table(table) for name, table in told["tables"].items()},
        sequences={name: tuple(values) for name, values in told["sequences"].items()},
    )


def _estimates(told: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: Estimate(**value) if isinstance(value, dict) else value
        for name, value in told.items()
    }


def _windows(windows: list[dict[str, Any]]) -> tuple[WindowFloor, ...]:
    return tuple(WindowFloor(**window) for window in windows)


def _table(told: Mapping[str, Any]) -> Table:
    curves = {
        name: Curve(*(tuple(curve[part]) for part in ("mean", "se", "ci95")))
        for name, curve in told["curves"].items()
    }
    return Table(tuple(told["bins"]), tuple(told["tokens"]), curves)
