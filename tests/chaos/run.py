"""Trainers, replicas, and what happens to them."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.checker import BATCH_SIZE, SPEC, Finding, findings, recorded
from tests.chaos.replica import Replica, fixed_ports
from tests.proxy import Proxy

REPLICAS = 3
TIMEOUT_S = 2.0
LONGEST_GAP_S = TIMEOUT_S + 1
_STARTING_S = 60
_ENOUGH = "enough"
_HEALED_AT_ONCE = ("cut", "reset", "flip")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run is to be.

    `batches`: of all trainers together, at least. `fault_every_s`: mean time between two faults, which are
    dealt from `deck` again and again. `stop_s`: for how long a replica is stopped. `at_least`: how many times each kind of fault must have met a connection in use.
    `step_s`: what a trainer takes for a step. `seconds`: the run fails if it takes longer.
    """

    batches: int
    fault_every_s: float
    deck: tuple[str, ...]
    stop_s: float
    at_least: dict[str, int]
    step_s: float
    seconds: float
    seed: int = 0


@dataclass
class Report:
    batches: int = 0
    seconds: float = 0.0
    longest_gap_s: dict[str, float] = field(default_factory=dict)
    hits: dict[str, int] = field(default_factory=dict)
    outages: dict[str, int] = field(default_factory=dict)
    """How many times a trainer was told that no endpoint answered."""
    findings: dict[str, list[Finding]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    """Why the run proves nothing, or proves something wrong."""

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=2)


class Trainer:
    def __init__(self, door: str, urls: list[str], folder: Path, plan: Plan) -> None:
        self.door = door
        self.count = plan.batches // 2
        self.record = folder / f"{door}.record"
        self.stream: dict[str, Any] = {**SPEC, "batch_size": BATCH_SIZE, "seed": plan.seed}
        arguments = {
            "urls": urls,
            "record": str(self.record),
            # Windows of 32 batches, so that there is always one on its way.
            "stream": {**self.stream, "prefetch_bytes": 2**18},
            "enough": str(folder / _ENOUGH),
            "count": self.count,
            "timeout_s": TIMEOUT_S,
            "step_s": plan.step_s,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.trainer", json.dumps(arguments)],
            stderr=subprocess.PIPE,
            text=True,
        )


class Chaos:
    """One run of a plan."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan = plan
        self._folder = folder
        self._random = random.Random(plan.seed)
        self._hits: Counter[str] = Counter()
        self._stopped_until: dict[Replica, float] = {}
        self._stalling: Proxy | None = None

    def run(self) -> Report:
        report = Report()
        with ExitStack() as stack:
            ports = fixed_ports()
            self._replicas = [Replica(ports) for _ in range(REPLICAS)]
            for replica in self._replicas:
                stack.callback(replica.kill)
            self._proxies = {
                door: [
                    stack.enter_context(Proxy(getattr(replica, door), next(ports)))
                    for replica in self._replicas
                ]
                for door in ("http", "grpc")
            }
            self._await_replicas()
            begun_at = time.monotonic()
            trainers = [
                Trainer(door, [proxy.url for proxy in proxies], self._folder, self._plan)
                for door, proxies in self._proxies.items()
            ]
            for trainer in trainers:
                stack.callback(trainer.process.kill)
            self._torment(trainers)
            report.seconds = round(time.monotonic() - begun_at, 1)
            hits = self._all_hits()
            for trainer in trainers:
                self._judge(trainer, report)
        report.hits = dict(hits)
        if report.batches < self._plan.batches:
            report.failures.append(f"{report.batches} of {self._plan.batches} batches")
        for kind, minimum in self._plan.at_least.items():
            if hits[kind] < minimum:
                report.failures.append(f"{hits[kind]} times {kind}, fewer than {minimum}")
        return report

    def _torment(self, trainers: list[Trainer]) -> None:
        """Faults at random times, until there were enough of them and of batches."""
        minima = self._plan.at_least.items()
        until = time.monotonic() + self._plan.seconds
        due = time.monotonic() + 1
        faults = self._faults()
        kind = next(faults)
        while any(trainer.process.poll() is None for trainer in trainers):
            now = time.monotonic()
            if now > until:
                for trainer in trainers:
                    trainer.process.kill()
            self._look_after_replicas(now)
            hits = self._all_hits()
            if all(hits[kind] >= minimum for kind, minimum in minima):
                (self._folder / _ENOUGH).touch()
            if now >= due and self._happen(kind, now):
                due = now + self._random.expovariate(1 / self._plan.fault_every_s)
                kind = next(faults)
            time.sleep(0.02)

    def _all_hits(self) -> Counter[str]:
        proxies = [proxy for door in self._proxies.values() for proxy in door]
        return sum((proxy.hits for proxy in proxies), self._hits.copy())

    def _faults(self) -> Iterator[str]:
        while True:
            yield from self._random.sample(self._plan.deck, len(self._plan.deck))

    def _happen(self, kind: str, now: float) -> bool:
        """A fault at a random place, if that is a place for it now."""
        chosen = self._random.randrange(REPLICAS)
        replica = self._replicas[chosen]
        proxies = [self._proxies[door][chosen] for door in self._proxies]
        proxy = self._random.choice(proxies)
        # One replica at least stays well, and one at a time is silent: more is not promised.
        if kind not in _HEALED_AT_ONCE and (replica.state != "ready" or self._ready() < 2):
            return False
        if kind in ("stall", "stop") and self._silent(now):
            return False
        if kind in ("kill", "stop"):
            if not any(proxy.in_use() for proxy in proxies):
                return False
            self._hits[kind] += 1
            if kind == "kill":
                replica.kill()
                replica.start()
            else:
                replica.stop()
                self._stopped_until[replica] = now + self._plan.stop_s
        elif proxy.armed:
            return False
        else:
            proxy.arm(kind, self._random.randrange(2**17))  # within the next few windows
            if kind == "stall":
                self._stalling = proxy
        return True

    def _ready(self) -> int:
        return sum(replica.state == "ready" for replica in self._replicas)

    def _silent(self, now: float) -> bool:
        """Whether anybody may be waiting for an answer that does not come."""
        stalling = self._stalling is not None and (
            self._stalling.armed > 0 or now < self._stalling.hit_at + TIMEOUT_S + 1
        )
        return stalling or any(replica.state == "stopped" for replica in self._replicas)

    def _look_after_replicas(self, now: float) -> None:
        for replica in self._replicas:
            replica.look()
            if replica.state == "stopped" and now > self._stopped_until[replica]:
                replica.go_on()

    def _await_replicas(self) -> None:
        until = time.monotonic() + _STARTING_S
        while self._ready() < REPLICAS:
            if time.monotonic() > until:
                raise RuntimeError("the replicas did not start")
            self._look_after_replicas(0)
            time.sleep(0.05)

    def _judge(self, trainer: Trainer, report: Report) -> None:
        _, told = trainer.process.communicate()
        given = recorded(trainer.record)
        report.batches += len(given)
        # The first has the start of the process in it.
        gap_s = max((batch.waited_s for batch in given[1:]), default=0.0)
        report.longest_gap_s[trainer.door] = round(gap_s, 3)
        report.findings[trainer.door] = findings(
            given, count=max(trainer.count, len(given)), stream=trainer.stream
        )
        if report.findings[trainer.door]:
            report.failures.append(f"{trainer.door}: {report.findings[trainer.door]}")
        report.outages[trainer.door] = told.count("no endpoint is well")
        if trainer.process.returncode:
            report.failures.append(f"{trainer.door}: {trainer.process.returncode}: {told}")
        if gap_s > LONGEST_GAP_S:
            report.failures.append(f"{trainer.door}: a gap of {gap_s:.3f} s")
