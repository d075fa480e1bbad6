"""What a soak has shown: figures from what was written down, and what is wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.soak.honest import Answered
from tests.soak.trend import Trend, quantile, trend
from tests.vitals import Vitals


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What is allowed, and the least load that proves anything.

    `memory_mib`, `descriptors`, `threads`: by how much they may grow from the end of the warm-up to
    the end, by the slope less its uncertainty (three standard errors), as noise is no leak.
    `descriptors_left`: when all clients have gone.
    `load`: of the capacity, answered. `crowd`: how many of each kind of bad client at least;
    `probes`: how many small requests in each third of the time.
    `drift`: of the p99 of a small request, the last third of the time over the first third, beyond
    `drift_floor_s`.
    """

    memory_mib: float
    descriptors: float
    threads: float
    descriptors_left: int = 4
    load: float = 0.5
    crowd: int = 1
    probes: int = 1
    refusals: float = 0.01
    drift: float = 2.0
    drift_floor_s: float = 0.1


@dataclass
class Evidence:
    """What happened. `vitals`: (monotonic time, of the server), from the end of the warm-up to the
    end of the load. `before`, `after`: at rest. `capacity_per_s`: requests, closed loop."""

    seconds: float
    capacity_per_s: float
    wanted_per_s: float
    load: list[Answered]
    probes: list[Answered]
    crowd: Counter[str]
    vitals: list[tuple[float, Vitals]]
    before: Vitals
    after: Vitals
    server_lines: list[str] = field(default_factory=list)
    broken_clients: list[str] = field(default_factory=list)


CROWD = ("slow", "cancelling", "crashing", "lying")


class Verdict:
    """`rows`: what was measured, in words. `failures`: what is out of bounds."""

    def __init__(self, evidence: Evidence, bounds: Bounds) -> None:
        self.rows: list[tuple[str, str]] = []
        self.failures: list[str] = []
        self._evidence, self._bounds = evidence, bounds
        self._load()
        self._bytes()
        self._server()
        self._latency()

    def _load(self) -> None:
        evidence, bounds = self._evidence, self._bounds
        answered = sum(answer.outcome == "ok" for answer in evidence.load) / evidence.seconds
        # Without a capacity nothing was asked for.
        share = answered / evidence.capacity_per_s if evidence.capacity_per_s else 0.0
        self._row("capacity, closed loop", f"{evidence.capacity_per_s:.1f} requests/s")
        self._row(
            "load, answered",
            f"{answered:.1f} requests/s, {share:.0%} of it ({evidence.wanted_per_s:.1f} wanted)",
        )
        self._fail_if(share < bounds.load, f"the load was {share:.0%}, less than {bounds.load:.0%}")
        crowd = {kind: self._of_kind(kind) for kind in CROWD}
        self._row("bad clients", ", ".join(f"{n} {kind}" for kind, n in crowd.items()))
        for kind, number in crowd.items():
            self._fail_if(number < bounds.crowd, f"{number} {kind}, fewer than {bounds.crowd}")
        for told in evidence.broken_clients:
            self.failures.append(f"a client broke: {told}")

    def _of_kind(self, kind: str) -> int:
        return sum(n for name, n in self._evidence.crowd.items() if name.startswith(kind))

    def _bytes(self) -> None:
        answers = [*self._evidence.load, *self._evidence.probes]
        outcomes = Counter(answer.outcome for answer in answers)
        checked = sum(answer.batches for answer in answers)
        amount = sum(answer.size for answer in answers)
        self._row("batches compared with the twin", f"{checked:,}, {amount / 1e9:.1f} GB")
        self._row("of them wrong", str(outcomes["wrong"]))
        refused = outcomes["OVERLOADED"]
        self._row("honest requests refused", f"{refused} of {len(answers):,}")
        self._fail_if(
            refused > self._bounds.refusals * len(answers),
            f"{refused} refusals, more than {self._bounds.refusals:.0%}",
        )
        for outcome in outcomes.keys() - {"ok", "OVERLOADED"}:
            example = next(answer.detail for answer in answers if answer.outcome == outcome)
            self.failures.append(f"{outcomes[outcome]} times {outcome}, first: {example[:300]}")

    def _server(self) -> None:
        evidence, bounds = self._evidence, self._bounds
        times = [at for at, _ in evidence.vitals]
        found = [state for _, state in evidence.vitals]
        before, after = evidence.before, evidence.after
        self._slope("memory, MiB", times, [s.rss_mib for s in found], bounds.memory_mib)
        self._slope("file descriptors", times, [s.descriptors for s in found], bounds.descriptors)
        self._slope("threads", times, [s.threads for s in found], bounds.threads)
        self._row(
            "at rest, before and after",
            f"{before.rss_mib:.0f} and {after.rss_mib:.0f} MiB, "
            f"{before.descriptors} and {after.descriptors} descriptors, "
            f"{before.threads} and {after.threads} threads",
        )
        left = after.descriptors - before.descriptors
        self._fail_if(left > bounds.descriptors_left, f"{left} file descriptors are left over")
        cores = (found[-1].cpu_s - found[0].cpu_s) / (times[-1] - times[0])
        self._row("CPU of the server", f"{cores:.2f} cores")
        defects = [line for line in evidence.server_lines if "Traceback" in line]
        self._fail_if(bool(defects), f"{len(defects)} tracebacks in the server's log")

    def _slope(
        self, what: str, times: Sequence[float], values: Sequence[float], most: float
    ) -> None:
        found: Trend = trend(times, values)
        self._row(what, f"{min(values):.0f} to {max(values):.0f}; slope {found}")
        hours = (times[-1] - times[0]) / 3600
        self._fail_if(
            found.surely * hours > most,
            f"{what}: slope {found}, surely more than {most:g} in {60 * hours:.1f} minutes",
        )

    def _latency(self) -> None:
        probes, bounds = self._evidence.probes, self._bounds
        began = self._evidence.vitals[0][0]
        ended = self._evidence.vitals[-1][0]
        thirds: list[list[float]] = [[], [], []]
        for probe in probes:
            if began <= probe.at_s <= ended and probe.outcome == "ok":
                thirds[min(2, int(3 * (probe.at_s - began) / (ended - began)))].append(probe.took_s)
        fewest = min(map(len, thirds))
        self._fail_if(fewest < bounds.probes, f"a third of the time has {fewest} small requests")
        if not fewest:
            return
        p50 = [quantile(third, 0.50) for third in thirds]
        p99 = [quantile(third, 0.99) for third in thirds]
        self._row("small request, p50 by thirds", ", ".join(f"{1e3 * s:.1f}" for s in p50) + " ms")
        self._row("small request, p99 by thirds", ", ".join(f"{1e3 * s:.1f}" for s in p99) + " ms")
        allowed = max(bounds.drift * p99[0], bounds.drift_floor_s)
        self._fail_if(
            p99[2] > allowed, f"p99 went from {p99[0]:.3f} to {p99[2]:.3f} s, over {allowed:.3f}"
        )

    def _row(self, what: str, value: str) -> None:
        self.rows.append((what, value))

    def _fail_if(self, wrong: bool, told: str) -> None:
        if wrong:
            self.failures.append(told)

    def __str__(self) -> str:
        width = max(len(what) for what, _ in self.rows)
        rows = [f"| {what.ljust(width)} | {value} |" for what, value in self.rows]
        return "\n".join([*rows, "", *(self.failures or ["nothing is out of bounds"])])
