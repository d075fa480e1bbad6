"""Pictures of floors and reports. Need matplotlib, of which no global state is used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metalm.eval.ladder import Floors
from metalm.eval.published import published_curves
from metalm.eval.report import Report, Table
from metalm.eval.text import set_line
from metalm_proto.errors import InvalidArgument

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")

# Okabe and Ito's palette: told apart by the colour-blind, and in print.
_MODELS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_BAYES, _KNOWN, _LADDER = "#000000", "#444444", "#999999"
_RUNGS = ("uniform", "content-free", "suffix", "last-copy", "vote")


@dataclass(frozen=True, slots=True)
class _Line:
    """`key`: of the curve in the tables. `tables`: whose."""

    key: str
    text: str
    tables: dict[str, Table]
    colour: str
    style: str = "-"
    width: float = 1.2
    everywhere: bool = True
    """In the small panels too."""


def plot_floors(floors: Floors, path: str | Path | None = None) -> Figure:
    """The floors by position, exposure, lag and offset, with the published curves of that setting.

    Written to `path` if one is given, as PNG, SVG or PDF by its suffix. Raises InvalidArgument for
    another suffix, OSError, and ModuleNotFoundError without matplotlib.
    """
    exact = floors.exact
    lines = _floor_lines(floors.tables, list(floors.overall), exact)
    title = set_line(floors.evaluation_set)
    return _drawn(lines, floors.evaluation_set.spec, title, path)


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
    lines = _floor_lines(first.tables, names, first.exact)
    for number, report in enumerate(given):
        colour = _MODELS[number % len(_MODELS)]
        style = "-" if number < len(_MODELS) else "--"
        lines.append(_Line("model", report.label or "model", report.tables, colour, style, 2.0))
    title = first.preset or set_line(first.evaluation_set)
    return _drawn(lines, first.evaluation_set.spec, title, path)


def _floor_lines(tables: dict[str, Table], names: Iterable[str], exact: bool) -> list[_Line]:
    lines = []
    for name in names:
        if name in _RUNGS:
            lines.append(_Line(name, name, tables, _LADDER, ":", everywhere=False))
        elif name.startswith("bayes-"):
            text = f"Bayes, last {name.removeprefix('bayes-')} tokens"
            lines.append(_Line(name, text, tables, _LADDER, everywhere=False))
        elif name == "known":
            lines.append(_Line(name, "language known", tables, _KNOWN, "-.", 1.2))
        elif name == "greedy":
            text = "Bayes (exact)" if exact else "Bayes, at most (greedy)"
            lines.append(_Line(name, text, tables, _BAYES, "-", 1.8))
        elif not exact:
            lines.append(_Line(name, "Bayes, at least (genie)", tables, _BAYES, "--", 1.2))
    return lines


def _drawn(lines: list[_Line], spec: Any, title: str, path: str | Path | None) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.5, 8.5), layout="constrained", dpi=130)
    rows = figure.add_gridspec(2, 3, height_ratios=(1.5, 1))
    figure.suptitle(title, fontsize=11)
    _positions(figure.add_subplot(rows[0, :]), lines, spec)
    small = [line for line in lines if line.everywhere]
    _exposures(figure.add_subplot(rows[1, 0]), small)
    _lags(figure.add_subplot(rows[1, 1]), small)
    _offsets(figure.add_subplot(rows[1, 2]), small)
    if path is not None:
        _write(figure, Path(path))
    return figure


def _positions(axes: Axes, lines: list[_Line], spec: Any) -> None:
    ends: list[tuple[float, str, str]] = []
    for line in lines:
        table = line.tables["segment"]
        centres = [((one["from"] or 0) + (one["to"] or 0) + 1) / 2 for one in table.bins]
        ends.append(
            (_draw(axes, line, table, centres, range(len(centres))), line.text, line.colour)
        )
    for number, curve in enumerate(published_curves(spec)):
        # Their colours begin at the end of the palette, where the models' do not.
        colour = _MODELS[-1 - number % len(_MODELS)]
        centres = [end - 63.5 for end in curve.t_end]
        axes.plot(
            centres, curve.nll_nats, "o", color=colour, markersize=3.5, markerfacecolor="none"
        )
        ends.append((curve.nll_nats[-1], f"published: {curve.model.partition(',')[0]}", colour))
    axes.set_xscale("log", base=2)
    block = _block(lines[0].tables["segment"])
    means = "" if block == 1 else f", means over {block} tokens"
    axes.set_xlabel(f"position in the sequence{means}")
    axes.xaxis.set_major_formatter(_plain)
    _finish(axes)
    axes.set_ylabel("NLL, nats per token")
    _label_ends(axes, ends)


def _block(segments: Table) -> int:
    """Tokens of the first segment, and of all others but the last."""
    return (segments.bins[0]["to"] or 0) - (segments.bins[0]["from"] or 0)


def _exposures(axes: Axes, lines: list[_Line]) -> None:
    for line in lines:
        table = line.tables["exposure"]
        _draw(axes, line, table, _middles(table, range(len(table.bins))), range(len(table.bins)))
    axes.set_xscale("symlog", base=2, linthresh=1)
    axes.set_xlabel("exposure (times the element was heard before)")
    axes.xaxis.set_major_formatter(_plain)
    axes.set_ylabel("NLL, nats per token")
    _finish(axes)


def _lags(axes: Axes, lines: list[_Line]) -> None:
    """At one exposure: the one of 5 to 8, or the highest below that there is."""
    groups = {
        (one["exposure_from"] or 0, one["exposure_to"]) for one in lines[0].tables["lag"].bins
    }
    chosen = max((group for group in groups if group[0] <= 5), default=None)
    if chosen is None:  # nothing was spoken twice
        axes.set_axis_off()
        return
    for line in lines:
        table = line.tables["lag"]
        places = [
            i
            for i, one in enumerate(table.bins)
            if (one["exposure_from"], one["exposure_to"]) == chosen
        ]
        _draw(axes, line, table, _middles(table, places), places)
    axes.set_xscale("log", base=2)
    low, high = chosen
    told = f"{low}" if high == low + 1 else f"{low} to {(high or low + 1) - 1}"
    axes.set_xlabel(f"lag (tokens since heard), exposure {told}")
    axes.xaxis.set_major_formatter(_plain)
    _finish(axes)


def _offsets(axes: Axes, lines: list[_Line]) -> None:
    """Of elements that were heard in full before, up to where only 1 % of the tokens are beyond."""
    for line in lines:
        table = line.tables["offset"]
        places = [i for i, one in enumerate(table.bins) if one["exposure_from"] == 1]
        if not places:
            axes.set_axis_off()
            return
        share = np.cumsum([table.tokens[i] for i in places], dtype=np.float64)
        places = [i for i, told in zip(places, share, strict=True) if told <= 0.99 * share[-1]]
        _draw(axes, line, table, _middles(table, places), places)
    axes.set_xlabel("offset in an element heard before")
    _finish(axes)


def _middles(table: Table, places: Iterable[int]) -> list[float]:
    """The geometric middle of each bin, or its one value."""
    found = []
    for place in places:
        low, high = table.bins[place]["from"] or 0, table.bins[place]["to"]
        last = low if high is None else high - 1
        found.append(float(np.sqrt(low * last)) if low else 0.0)
    return found


def _draw(
    axes: Axes, line: _Line, table: Table, x: Sequence[float], places: Sequence[int]
) -> float:
    """Draws a curve, with its interval if it is a model's; its last height."""
    curve = table.curves[line.key]
    mean = np.array([curve.mean[i] for i in places], np.float64)
    single = "o" if len(mean) == 1 else None
    axes.plot(
        x,
        mean,
        line.style,
        color=line.colour,
        linewidth=line.width,
        marker=single,
        zorder=2 + line.width,  # the ladder lies below what matters
    )
    if line.key == "model":
        half = np.array([curve.ci95[i] for i in places], np.float64)
        axes.fill_between(x, mean - half, mean + half, color=line.colour, alpha=0.2, linewidth=0)
    return float(mean[-1]) if len(mean) else float("nan")


def _finish(axes: Axes) -> None:
    axes.set_ylim(bottom=0)
    axes.margins(x=0)
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_fontsize(8.5)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _label_ends(axes: Axes, ends: Iterable[tuple[float, str, str]]) -> None:
    """Names beside the ends of the curves, moved apart where they would touch."""
    bottom, top = axes.get_ylim()
    step = 0.047
    wanted = sorted(((y - bottom) / (top - bottom), text, colour) for y, text, colour in ends)
    heights: list[float] = []
    for height, *_ in wanted:
        heights.append(max(height, heights[-1] + step) if heights else height)
    # Where they were pushed out at the top, all the ones below give way.
    limit = 1.0
    for place in reversed(range(len(heights))):
        heights[place] = min(heights[place], limit)
        limit = heights[place] - step
    for moved, (height, text, colour) in zip(heights, wanted, strict=True):
        axes.annotate(
            text,
            xy=(1.0, height),
            xytext=(1.03, moved),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=colour,
            fontsize=8.5,
            va="center",
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.5,
                "alpha": 0.6,
                "relpos": (0, 0.5),
                "shrinkA": 2,
                "shrinkB": 0,
            },
            annotation_clip=False,
        )


def _plain(value: float, _: object) -> str:
    return f"{value:g}" if value < 1e4 else f"{value / 1e3:g}k"


def _write(figure: Figure, path: Path) -> None:
    from metalm.files.disk import opened

    if path.suffix.lower() not in SUFFIXES:
        raise InvalidArgument("plot", str(path), f"a name that ends in {', '.join(SUFFIXES)}")
    form = path.suffix.lower()[1:]
    # No time of day: the same report gives the same picture.
    metadata = {} if form == "png" else {"Date" if form == "svg" else "CreationDate": None}
    with opened(str(path)) as stream:
        figure.savefig(stream, format=form, metadata=metadata)
