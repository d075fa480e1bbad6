"""The judge on evidence that is made up: what must be out of bounds is, and noise is not."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.soak.honest import Answered
from tests.soak.judge import CROWD, Bounds, Evidence, Verdict
from tests.soak.trend import quantile, trend
from tests.vitals import Vitals

SECONDS = 1800.0
BOUNDS = Bounds(memory_mib=8, descriptors=4, threads=4, crowd=10)
Change = Callable[[Vitals, float], Vitals]


def evidence(change: Change = lambda state, at: state, **changed: Any) -> Evidence:
    """Half an hour of a server that is well; `change` alters its vitals by the time."""
    source = random.Random(0)
    states = []
    for second in range(int(SECONDS)):
        state = Vitals(
            rss_mib=250 + source.gauss(0, 10),
            descriptors=12 + source.randrange(10),
            threads=30,
            cpu_s=0.7 * second,
        )
        states.append((float(second), change(state, second / SECONDS)))
    well = Evidence(
        seconds=SECONDS,
        capacity_per_s=10,
        wanted_per_s=7,
        load=[Answered(k / 7, "window", "ok", 0.01, 8, 2**21) for k in range(int(7 * SECONDS))],
        probes=[Answered(k, "small", "ok", 0.005, 1, 512) for k in range(int(SECONDS))],
        crowd=Counter(dict.fromkeys(CROWD, 100)),
        vitals=states,
        before=Vitals(200, 12, 16, 0),
        after=Vitals(240, 12, 30, 0),
    )
    return replace(well, **changed)


def failures(*arguments: Any, **changed: Any) -> list[str]:
    return Verdict(evidence(*arguments, **changed), BOUNDS).failures


def test_a_server_that_is_well_has_no_failures() -> None:
    assert failures() == []


@pytest.mark.parametrize(
    ("grows", "named"),
    [
        ({"rss_mib": 40}, "memory, MiB: slope"),
        ({"descriptors": 16}, "file descriptors: slope"),
        ({"threads": 8}, "threads: slope"),
    ],
    ids=str,
)
def test_a_slow_leak_is_found_in_the_noise(grows: dict[str, int], named: str) -> None:
    """So much in half an hour."""

    def leaking(state: Vitals, share: float) -> Vitals:
        grown = {name: getattr(state, name) + share * much for name, much in grows.items()}
        return replace(state, **grown)

    (found,) = failures(leaking)
    assert found.startswith(named)


def answers(outcome: str, every: int) -> list[Answered]:
    return [
        replace(answer, outcome=outcome, detail="told") if k % every == 0 else answer
        for k, answer in enumerate(evidence().load)
    ]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"load": evidence().load[::2]}, "the load was 35%, less than 50%"),
        ({"crowd": Counter({"slow": 9} | dict.fromkeys(CROWD[1:], 10))}, "9 slow, fewer than 10"),
        ({"load": answers("wrong", 5000)}, "3 times wrong, first: told"),
        ({"load": answers("DEADLINE_EXCEEDED", 5000)}, "3 times DEADLINE_EXCEEDED, first: told"),
        ({"load": answers("OVERLOADED", 50)}, "252 refusals, more than 1%"),
        ({"after": Vitals(240, 17, 30, 0)}, "5 file descriptors are left over"),
        ({"server_lines": ["Traceback (most recent call last):"]}, "1 tracebacks"),
        ({"broken_clients": ["load-http"]}, "a client broke: load-http"),
        ({"probes": evidence().probes[:900]}, "a third of the time has 0 small requests"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_out_of_bounds_is_named(changed: dict[str, Any], named: str) -> None:
    (found,) = failures(**changed)
    assert named in found


def test_a_latency_that_grows_is_found() -> None:
    probes = [
        replace(probe, took_s=0.06 + 0.2 * probe.at_s / SECONDS) for probe in evidence().probes
    ]
    (found,) = failures(probes=probes)
    assert "p99 went from" in found


def test_a_few_refusals_are_no_failure() -> None:
    assert failures(load=answers("OVERLOADED", 500)) == []


def test_a_straight_line_is_found_exactly() -> None:
    found = trend([float(t) for t in range(3600)], [5 + 7 * t / 3600 for t in range(3600)])
    assert found.per_hour == pytest.approx(7)
    assert found.error == pytest.approx(0, abs=1e-9)


def test_the_error_of_a_trend_covers_the_noise() -> None:
    """Of 200 series without a slope, at most a few look sloped at three standard errors."""
    source = random.Random(1)
    sloped = 0
    for _ in range(200):
        found = trend([float(t) for t in range(600)], [source.gauss(0, 1) for _ in range(600)])
        sloped += abs(found.per_hour) > 3 * found.error
    assert sloped <= 4


def test_quantiles_are_values_of_the_series() -> None:
    assert quantile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.0
    assert quantile([4.0, 1.0, 3.0, 2.0], 0.99) == 4.0
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)
