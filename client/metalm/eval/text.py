"""Reports and floors for people, in text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from metalm.eval.evaluation_set import EvaluationSet
from metalm.eval.ladder import Floors
from metalm.eval.report import Curve, Estimate, Excess, Memory, Report, Table
from metalm_proto.spec import SPEC_FIELDS

_BRACKET = ("greedy", "genie", "known")
_SHOWN = {"exposure": (None,), "lag": (1, 5), "offset": (0, 1)}
"""At which exposures; the others are in the JSON."""


def floors_text(floors: Floors) -> str:
    """The floors by position, and those that bracket the Bayes learner by exposure, lag, offset."""
    names = list(floors.overall)
    bracket = [name for name in names if name in _BRACKET] or names
    exact = floors.exact_samples
    lines = [f"floors of {set_line(floors.evaluation_set)}; nats a token ± standard error"]
    if exact is not None:
        lines.append(_exactness(exact, floors.evaluation_set.samples))
    lines += ["", *_by_position(floors.tables["segment"], floors.overall, names)]
    lines += _by_circumstance(floors.tables, bracket)
    forms = floors.document["closed_forms"]
    lines += [
        "",
        f"closed forms: language known {forms['known_nats']:.4f}, content-free "
        f"{forms['content_free_nats']:.4f}; to learn a language costs "
        f"{forms['learning_cost_nats']:.0f} nats in all, and takes about "
        f"{forms['horizon_tokens']:.0f} tokens",
    ]
    return "\n".join(lines)


def report_text(report: Report) -> str:
    """What matters of a report first, then its tables."""
    overall = {"model": Estimate(report.overall.nll_nats, report.overall.se_nats, None)}
    overall |= report.floors
    names = ["model", *(name for name in report.tables["segment"].curves if name in report.floors)]
    width = max(len(name) for name, _ in figures(report))
    lines = [f"{report.label or 'model'} on {report.preset or set_line(report.evaluation_set)}"]
    lines += [f"  {name:<{width}}  {value}" for name, value in figures(report)]
    lines += ["", *_by_position(report.tables["segment"], overall, names)]
    lines += _by_circumstance(report.tables, ["model", *_BRACKET])
    return "\n".join(lines)


def figures(report: Report) -> Iterator[tuple[str, str]]:
    """The figures of a report, each with its name."""
    score, cumulative = report.overall, report.cumulative
    ppl = "-" if score.ppl is None else f"{score.ppl:.4g}"
    yield (
        "NLL",
        f"{_value(score.nll_nats, score.se_nats)} nats, {score.nll_bits:.4f} bits, ppl {ppl}",
    )
    yield "Bayes floor", _bracket(report)
    yield "excess over it", _excess(report.excess)
    yield "NLL, last half", f"{_estimate(report.last_half)} nats"
    yield "excess, last half", _excess(report.excess_last_half)
    if report.memory is not None:
        yield "effective memory W*", memory_text(report.memory)
    yield (
        "cumulative excess",
        f"{_estimate(cumulative.over_greedy, 1)} nats a sequence, {languages_text(report)} the "
        f"cost of learning a language ({cumulative.learning_cost_nats:.0f} nats)",
    )
    yield "samples", f"{report.samples}, sha256 {report.sha256}"


def languages_text(report: Report) -> str:
    """The cumulative excess in units of the learning cost."""
    low = report.cumulative.over_greedy_languages
    high = report.cumulative.over_genie_languages
    if low is None or high is None:
        return "and no multiple of"
    same = f"{low:.3f}" == f"{high:.3f}"
    return f"{low:.3f} times" if same else f"{low:.3f} to {high:.3f} times"


def memory_text(memory: Memory) -> str:
    """W* and its interval."""
    if memory.relation == "below":
        return f"below {memory.tokens:.0f} tokens, the smallest window computed"
    smallest, largest = (memory.windows[i].window for i in (0, -1))
    low = f"below {smallest}" if memory.low is None else f"{memory.low:.0f}"
    if memory.relation == "above":
        return f"all {largest} tokens (95 %: from {low})"
    high = f"all {largest}" if memory.high is None else f"{memory.high:.0f}"
    return f"{memory.tokens:.0f} tokens (95 %: {low} to {high})"


def set_line(evaluation_set: EvaluationSet) -> str:
    """The stream and the samples, in a line."""
    spec = evaluation_set.spec
    values = ((field.name, getattr(spec, field.name)) for field in SPEC_FIELDS)
    told = " ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in values
        if value is not None
    )
    where = ", ".join(f"{start}..{stop - 1}" for start, stop in evaluation_set.ranges[:3])
    more = ", ..." if len(evaluation_set.ranges) > 3 else ""
    return f"{told}, {evaluation_set.split} samples {where}{more} of seed {evaluation_set.seed}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as columns: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _value(mean: float | None, se: float | None, digits: int = 4) -> str:
    if mean is None:
        return "-"
    return f"{mean:.{digits}f}" if se is None else f"{mean:.{digits}f} ± {se:.{digits}f}"


def _estimate(estimate: Estimate, digits: int = 4) -> str:
    return _value(estimate.mean, estimate.se, digits)


def _excess(excess: Excess) -> str:
    low, high = _estimate(excess.over_greedy), _estimate(excess.over_genie)
    return f"{low} nats" if low == high else f"{low} to {high} nats"


def _bracket(report: Report) -> str:
    low, high = (f"{report.floors[name].mean:.4f}" for name in ("genie", "greedy"))
    told = _exactness(report.exact_samples, report.samples)
    return f"{low} nats, {told}" if low == high else f"{low} to {high} nats, {told}"


def _exactness(exact: int, samples: int) -> str:
    if exact == samples:
        return "exact on every sequence (greedy = genie, without a doubt)"
    return (
        f"exact on {exact} of {samples} sequences; elsewhere it lies, on average, between genie "
        "and greedy"
    )


def _by_position(
    segments: Table, overall: Mapping[str, Estimate], names: Iterable[str]
) -> Iterator[str]:
    """The first segment, the second, the fourth and so on, the last, and all."""
    last = len(segments.bins) - 1
    chosen = sorted({*(min(2**i, last + 1) - 1 for i in range(last.bit_length() + 1)), last})
    head = ["position", *(f"{_low(segments, i)}-{segments.bins[i]['to']}" for i in chosen)]
    rows = [[*head, "overall"]]
    for name in names:
        curve = segments.curves[name]
        cells = [_value(curve.mean[i], curve.se[i], 3) for i in chosen]
        rows.append([name, *cells, _estimate(overall[name], 4)])
    return iter(aligned(rows))


def _low(table: Table, place: int) -> int:
    return (table.bins[place]["from"] or 0) + 1


def _by_circumstance(tables: Mapping[str, Table], names: Sequence[str]) -> Iterator[str]:
    for part, shown in _SHOWN.items():
        table = tables[part]
        bins = [(one.get("exposure_from"), one.get("exposure_to")) for one in table.bins]
        for fixed, group in groupby(range(len(bins)), key=lambda i: bins[i]):
            if fixed[0] not in shown:
                continue
            places = list(group)
            at = "" if fixed[0] is None else f", exposure {_range(fixed[0], fixed[1])}"
            yield ""
            yield from _merged(f"{part}{at}", table, places, names)


def _merged(label: str, table: Table, places: Sequence[int], names: Sequence[str]) -> Iterator[str]:
    """A table of few columns: 0, 1, 2, 3, 4-7, 8-15 and so on."""
    columns: list[tuple[int, int | None, list[int]]] = []
    for _, group in groupby(places, key=lambda i: _octave(table.bins[i]["from"] or 0)):
        inside = list(group)
        columns.append((table.bins[inside[0]]["from"] or 0, table.bins[inside[-1]]["to"], inside))
    rows = [
        [label, *(_range(low, high) for low, high, _ in columns)],
        ["tokens", *(str(sum(table.tokens[i] for i in inside)) for *_, inside in columns)],
    ]
    for name in names:
        curve = table.curves[name]
        rows.append([name, *(f"{_mean(table, curve, inside):.3f}" for *_, inside in columns)])
    return iter(aligned(rows))


def _octave(value: int) -> int:
    return value if value < 4 else value.bit_length() + 1


def _mean(table: Table, curve: Curve, places: Iterable[int]) -> float:
    """Over the tokens of several bins."""
    pairs = [(curve.mean[i] or 0.0, table.tokens[i]) for i in places]
    return sum(mean * tokens for mean, tokens in pairs) / sum(tokens for _, tokens in pairs)


def _range(low: int, high: int | None) -> str:
    if high is None:
        return f"{low}+"
    return str(low) if high == low + 1 else f"{low}-{high - 1}"
