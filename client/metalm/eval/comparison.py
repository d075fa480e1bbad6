"""Several reports side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from metalm.eval.report import Report
from metalm.eval.text import aligned, languages_text, memory_text, set_line
from metalm_proto.errors import InvalidArgument


def comparison(reports: Sequence[Report], names: Sequence[str], *, paired: bool = True) -> str:
    """A table with a column for each report, and the differences from the first.

    On the same samples the differences are taken sample by sample, and so are their standard
    errors. Raises InvalidArgument for reports on other samples, unless `paired` is False: then
    their errors are those of independent samples.
    """
    first = reports[0]
    for report, name in zip(reports[1:], names[1:], strict=True):
        if paired and report.sha256 != first.sha256:
            bound = f"{first.sha256}, that of {names[0]}: the models were given other samples"
            raise InvalidArgument(f"sha256 of {name}", report.sha256, bound)
    return "\n".join(
        [
            first.preset or set_line(first.evaluation_set)
            if paired
            else "not the same samples: differences are not paired",
            *aligned([["", *names], *_rows(reports)]),
            "",
            *aligned([["difference from", *names[1:]], *_differences(reports, names[0], paired)]),
        ]
    )


def _rows(reports: Sequence[Report]) -> Iterator[list[str]]:
    columns: list[tuple[str, Callable[[Report], str]]] = [
        ("NLL, nats", lambda one: f"{one.overall.nll_nats:.4f}"),
        ("NLL, bits", lambda one: f"{one.overall.nll_bits:.4f}"),
        ("ppl", lambda one: "-" if one.overall.ppl is None else f"{one.overall.ppl:.4f}"),
        ("excess over Bayes, nats", lambda one: f"{one.excess.over_greedy.mean:.4f}"),
        ("last half: NLL, nats", lambda one: f"{one.last_half.mean:.4f}"),
        ("last half: excess, nats", lambda one: f"{one.excess_last_half.over_greedy.mean:.4f}"),
        ("effective memory W*", lambda one: memory_text(one.memory) if one.memory else "-"),
        ("cumulative excess, nats", lambda one: f"{one.cumulative.over_greedy.mean:.1f}"),
        ("in learning costs", lambda one: languages_text(one).removesuffix(" times")),
        ("samples", lambda one: str(one.samples)),
    ]
    for name, cell in columns:
        yield [name, *(cell(report) for report in reports)]
    exposures = [one["from"] for one in reports[0].tables["exposure"].bins]
    for exposure in [value for value in exposures if value in (0, 1, 2, 4, 8)]:
        yield [
            f"NLL at exposure {exposure}",
            *(_at_exposure(report, exposure) for report in reports),
        ]


def _at_exposure(report: Report, exposure: int | None) -> str:
    table = report.tables["exposure"]
    for one, mean in zip(table.bins, table.curves["model"].mean, strict=True):
        if one["from"] == exposure and mean is not None:
            return f"{mean:.4f}"
    return "-"


def _differences(reports: Sequence[Report], name: str, paired: bool) -> Iterator[list[str]]:
    for title, key in (("NLL", "nll_nats"), ("NLL, last half", "last_half_nats")):
        cells = []
        for report in reports[1:]:
            a, b = (np.array(one.sequences[key]) for one in (reports[0], report))
            scatter = _squared_error(b - a) if paired else _squared_error(a) + _squared_error(b)
            cells.append(f"{b.mean() - a.mean():+.4f} ± {np.sqrt(scatter):.4f}")
        yield [f"{name}: {title}, nats", *cells]


def _squared_error(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    """Of the mean; NaN of a single value."""
    return float(values.var(ddof=1) / len(values)) if len(values) > 1 else float("nan")
