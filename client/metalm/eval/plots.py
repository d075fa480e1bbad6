"""Pictures of floors and reports. Need matplotlib, of which no global state is used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metalm.eval.ladder import Floors
from metalm.eval.panels import (
    COLOURS,
    Line,
    draw_exposures,
    draw_lags,
    draw_offsets,
    draw_positions,
)
from metalm.eval.report import Report, Table
from metalm.eval.text import set_line
from metalm_proto.errors import InvalidArgument
from metalm_proto.spec import Spec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")

_BAYES, _KNOWN, _LADDER = "#000000", "#444444", "#999999"
_LONGEST_LABEL = 32
_RUNGS = ("uniform", "content-free", "suffix", "last-copy", "vote")


def plot_floors(floors: Floors, path: str | Path | None = None) -> Figure:
    """The floors by position, exposure, lag and offset, with the published curves of that setting.

    Written to `path` if one is given, as PNG, SVG or PDF by its suffix. Raises InvalidArgument for
    another suffix, OSError, and ModuleNotFoundError without matplotlib.
    """
    exact = floors.exact
    spec = floors.evaluation_set.spec
    lines = _floor_lines(floors.tables, list(floors.overall), exact, spec)
    title = set_line(floors.evaluation_set)
    return _drawn(lines, spec, title, path)


def plot_reports(reports: Report | Sequence[Report], path: str | Path | None = None) -> Figure:
    """One model, or several on the same samples, above the floors.

    Written to `path` if one is given, as PNG, SVG or PDF by its suffix. Raises InvalidArgument for
    another suffix and for reports on other samples; OSError, and ModuleNotFoundError without
    matplotlib.
    """
    given = [reports] if isinstance(reports, Report) else list(reports)
    if not given:
        raise InvalidArgument("reports", reports, "at least one")
    for report in given:
        if report.sha256 != given[0].sha256:
            raise InvalidArgument("sha256", report.sha256, f"{given[0].sha256}, as of the first")
    first = given[0]
    names = [name for name in first.tables["segment"].curves if name in first.floors]
    spec = first.evaluation_set.spec
    lines = _floor_lines(first.tables, names, first.exact, spec)
    for number, report in enumerate(given):
        colour = COLOURS[number % len(COLOURS)]
        style = "-" if number < len(COLOURS) else "--"
        label = _shortened(report.label or "model")
        lines.append(Line("model", label, report.tables, colour, style, 2.0))
    title = first.preset or set_line(first.evaluation_set)
    return _drawn(lines, spec, title, path)


def _shortened(label: str) -> str:
    """Beginning and end of a long one, so that it leaves room for what it is the label of."""
    return (
        label if len(label) <= _LONGEST_LABEL else f"{label[:18].rstrip()} … {label[-12:].lstrip()}"
    )


def _floor_lines(
    tables: dict[str, Table], names: Iterable[str], exact: bool, spec: Spec
) -> list[Line]:
    lines = []
    for name in names:
        if name in _RUNGS:
            lines.append(Line(name, name, tables, _LADDER, ":", everywhere=False))
        elif name.startswith("bayes-"):
            window = int(name.removeprefix("bayes-"))
            if window < spec.L:  # a memory of all is none that is limited
                text = f"Bayes, last {window} tokens"
                lines.append(Line(name, text, tables, _LADDER, everywhere=False))
        elif name == "known":
            lines.append(Line(name, "language known", tables, _KNOWN, "-.", 1.2))
        elif name == "greedy":
            text = "Bayes (exact)" if exact else "Bayes, at most (greedy)"
            lines.append(Line(name, text, tables, _BAYES, "-", 1.8))
        elif not exact:
            lines.append(Line(name, "Bayes, at least (genie)", tables, _BAYES, "--", 1.2))
    return lines


def _drawn(lines: list[Line], spec: Spec, title: str, path: str | Path | None) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.5, 8.5), layout="constrained", dpi=130)
    rows = figure.add_gridspec(2, 3, height_ratios=(1.5, 1))
    figure.suptitle(title, fontsize=11)
    draw_positions(figure.add_subplot(rows[0, :]), lines, spec)
    small = [line for line in lines if line.everywhere]
    draw_exposures(figure.add_subplot(rows[1, 0]), small)
    draw_lags(figure.add_subplot(rows[1, 1]), small)
    draw_offsets(figure.add_subplot(rows[1, 2]), small)
    if path is not None:
        _write(figure, Path(path))
    return figure


def _write(figure: Figure, path: Path) -> None:
    from metalm.files.disk import opened

    if path.suffix.lower() not in SUFFIXES:
        raise InvalidArgument("plot", str(path), f"a name that ends in {', '.join(SUFFIXES)}")
    form = path.suffix.lower()[1:]
    # No time of day: the same report gives the same picture.
    metadata = {} if form == "png" else {"Date" if form == "svg" else "CreationDate": None}
    with opened(str(path)) as stream:
        figure.savefig(stream, format=form, metadata=metadata)
