"""The table that `metalm top` shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from metalm.top.exposition import Change, Reading
from metalm.top.replicas import Replica

_GAP = 2
_NONE = "-"
_MULTIPLES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True, slots=True)
class _Column:
    """`cell`: a replica's; `total`: of all together, from their values, where there is such a
    thing. The wider a terminal, the more columns; those with the lowest `rank` go last."""

    title: str
    rank: int
    value: Callable[[Reading, Change | None], float | None]
    shown: Callable[[float], str]
    adds_up: bool = True


def _rate(name: str) -> Callable[[Reading, Change | None], float | None]:
    return lambda _, change: None if change is None else change.rate(name)


def _now(name: str) -> Callable[[Reading, Change | None], float | None]:
    return lambda reading, _: reading.value(name)


def _quantile(name: str, quantile: float) -> Callable[[Reading, Change | None], float | None]:
    return lambda _, change: None if change is None else change.quantile(name, quantile)


def _room(reading: Reading, _: Change | None) -> float | None:
    used = reading.value("metalm_bytes_in_flight")
    limit = reading.value("metalm_bytes_in_flight_limit")
    return None if used is None or not limit else used / limit


def quantity(value: float) -> str:
    """Three digits and a multiple: 241M."""
    for multiple, name in _MULTIPLES:
        if value >= multiple * 0.9995:
            return f"{value / multiple:.3g}{name}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    return f"{seconds:.3g}s" if seconds >= 0.9995 else f"{seconds * 1e3:.3g}ms"


def _share(value: float) -> str:
    return f"{100 * value:.0f}%"


_GENERATION, _SEND = "metalm_generation_seconds", "metalm_send_seconds"
_COLUMNS = (
    _Column("tokens/s", 0, _rate("metalm_tokens_total"), quantity),
    _Column("batches/s", 3, _rate("metalm_batches_total"), quantity),
    _Column("bytes/s", 9, _rate("metalm_sent_bytes_total"), quantity),
    _Column("gen_p50", 6, _quantile(_GENERATION, 0.5), duration, adds_up=False),
    _Column("gen_p99", 5, _quantile(_GENERATION, 0.99), duration, adds_up=False),
    _Column("send_p50", 8, _quantile(_SEND, 0.5), duration, adds_up=False),
    _Column("send_p99", 7, _quantile(_SEND, 0.99), duration, adds_up=False),
    _Column("running", 2, _now("metalm_requests_in_flight"), quantity),
    _Column("room_used", 4, _room, _share, adds_up=False),
    _Column("refused/s", 1, _rate("metalm_refusals_total"), quantity),
    _Column("cores", 10, _rate("process_cpu_seconds_total"), quantity),
)
_STATE = 1
"""The column of the state."""


def table(replicas: Sequence[Replica], width: int | None = None) -> list[str]:
    """A line of titles, one for each replica, and one for all together if there are several; none
    wider than `width`."""
    for count in range(len(_COLUMNS), 0, -1):
        chosen = [column for column in _COLUMNS if column.rank < count]
        lines = _aligned(_rows(replicas, chosen))
        if width is None or max(map(len, lines)) <= width:
            return lines
    return [line[:width] for line in lines]


def _rows(replicas: Sequence[Replica], columns: Sequence[_Column]) -> list[list[str]]:
    rows = [["replica", "state", *(column.title for column in columns)]]
    values = [[_value(column, replica) for column in columns] for replica in replicas]
    for replica, cells in zip(replicas, values, strict=True):
        rows.append([replica.name, _state(replica), *map(_cell, columns, cells)])
    if len(replicas) > 1:
        ready = sum(_state(replica) == "ready" for replica in replicas)
        totals = []
        for column, of_all in zip(columns, zip(*values, strict=True), strict=True):
            known = [value for value in of_all if value is not None]
            totals.append(_cell(column, sum(known) if known and column.adds_up else None))
        rows.append(["all", f"{ready}/{len(replicas)}", *totals])
    return rows


def _value(column: _Column, replica: Replica) -> float | None:
    if replica.reading is None:
        return None
    return column.value(replica.reading, replica.change)


def _cell(column: _Column, value: float | None) -> str:
    return _NONE if value is None else column.shown(value)


def _state(replica: Replica) -> str:
    if replica.reading is None:
        return "gone"
    return _printable(replica.reading.label("metalm_state", "state")) or _NONE


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isalnum())[:20]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        (" " * _GAP)
        .join(
            cell.ljust(width) if number <= _STATE else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        .rstrip()
        for row in rows
    ]
