"""The panels of a picture: curves by position, exposure, lag and offset."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from metalm.eval.published import published_curves
from metalm.eval.report import Table
from metalm_proto.spec import Spec

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Of models. Okabe and Ito's palette: told apart by the colour-blind, and in print."""


@dataclass(frozen=True, slots=True)
class Line:
    """`key`: of the curve in the tables. `tables`: whose."""

    key: str
    text: str
    tables: dict[str, Table]
    colour: str
    style: str = "-"
    width: float = 1.2
    everywhere: bool = True
    """In the small panels too."""


def draw_positions(axes: Axes, lines: list[Line], spec: Spec) -> None:
    ends: list[tuple[float, str, str]] = []
    for line in lines:
        table = line.tables["segment"]
        centres = [((one["from"] or 0) + (one["to"] or 0) + 1) / 2 for one in table.bins]
        ends.append(
            (_draw(axes, line, table, centres, range(len(centres))), line.text, line.colour)
        )
    for number, curve in enumerate(published_curves(spec)):
        # Their colours begin at the end of the palette, where the models' do not.
        colour = COLOURS[-1 - number % len(COLOURS)]
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


def draw_exposures(axes: Axes, lines: list[Line]) -> None:
    for line in lines:
        table = line.tables["exposure"]
        _draw(axes, line, table, _middles(table, range(len(table.bins))), range(len(table.bins)))
    axes.set_xscale("symlog", base=2, linthresh=1)
    axes.set_xlabel("exposure (times the element was heard before)")
    axes.xaxis.set_major_formatter(_plain)
    axes.set_ylabel("NLL, nats per token")
    _finish(axes)


def draw_lags(axes: Axes, lines: list[Line]) -> None:
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


def draw_offsets(axes: Axes, lines: list[Line]) -> None:
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


def _draw(axes: Axes, line: Line, table: Table, x: Sequence[float], places: Sequence[int]) -> float:
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
    """Room for the curves; an interval that is far wider than they are high is cut."""
    heights = np.concatenate([np.asarray(one.get_ydata(), np.float64) for one in axes.get_lines()])
    axes.set_ylim(0, 1.08 * float(heights.max(initial=0.0, where=np.isfinite(heights))) or 1.0)
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
