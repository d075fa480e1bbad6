"""One server under a mixed load for as long as asked, with bad clients among the good ones."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.service_process import Service, running
from tests.soak.honest import answered
from tests.soak.judge import Bounds, Evidence
from tests.soak.processes import Client, begin
from tests.soak.requests import WEIGHTS
from tests.vitals import Vitals, settled, vitals

_ENDING_S = 90
"""What clients may take to end, beyond their time."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run is to be.

    `seconds`: of the load, of which `warm_up_s` come before the first measurement.
    `calibrate_s`: for which the same clients ask as much as they can, to find the capacity.
    `share`: of the capacity that is then asked for. `probes_per_s`: small requests on top, through
    each door. `crowd_per_s`: bad clients. `stay_s`: how long a slow one stays.
    `every_s`: between two looks at the server. `settle_s`: what it may take, when all have gone, to
    close what they left. `program`: the module that is run in place of the command `metalm`.
    """

    seconds: float
    warm_up_s: float
    calibrate_s: float
    bounds: Bounds
    share: float = 0.7
    threads: int = 2
    probes_per_s: float = 10.0
    crowd_per_s: float = 2.0
    stay_s: float = 5.0
    every_s: float = 1.0
    settle_s: float = 30.0
    seed: int = 0
    flags: tuple[str, ...] = ()
    program: str = "metalm"


def soak(plan: Plan, folder: Path) -> Evidence:
    """Runs the plan. `folder`: for what clients write down."""
    with running(*plan.flags, program=plan.program) as service:
        pid = service.process.pid
        before = vitals(pid)
        with _clients(plan, folder, service) as clients:
            loaded = begin(clients) + plan.calibrate_s
            states = _watched(pid, loaded + plan.seconds, plan.every_s)
            told = {client.record.stem: client.ended(_ENDING_S) for client in clients}
        after = settled(pid, before.descriptors, plan.settle_s)
        lines = list(service.lines)
    load, probes = (
        [answer for client in clients if client.module == "honest"
         if client.record.stem.startswith(what) for answer in answered(client.record)]
        for what in ("load", "probe")
    )  # fmt: skip
    warm, end = loaded + plan.warm_up_s, loaded + plan.seconds
    capacity = sum(a.outcome == "ok" and a.at_s < loaded for a in load) / plan.calibrate_s
    return Evidence(
        seconds=end - warm,
        capacity_per_s=capacity,
        wanted_per_s=plan.share * capacity,
        load=[answer for answer in load if warm <= answer.at_s],
        probes=[answer for answer in probes if warm <= answer.at_s],
        crowd=Counter(json.loads(told["crowd"] or "{}")),
        vitals=[(at, state) for at, state in states if at >= warm],
        before=before,
        after=after,
        server_lines=lines,
        broken_clients=[client.record.stem for client in clients if client.broken],
    )


@contextmanager
def _clients(plan: Plan, folder: Path, service: Service) -> Iterator[list[Client]]:
    urls = {"http": service.http, "grpc": service.grpc}
    clients = []
    try:
        for number, (door, url) in enumerate(urls.items()):
            shared = {
                "url": url,
                "seconds": plan.seconds,
                "calibrate_s": plan.calibrate_s,
                "share": plan.share,
                "seed": 4 * plan.seed + 2 * number,
            }
            for name, own in {
                "load": {"kinds": list(WEIGHTS), "threads": plan.threads, "per_s": None},
                "probe": {"kinds": ["small"], "threads": 1, "per_s": plan.probes_per_s},
            }.items():
                record = folder / f"{name}-{door}.jsonl"
                arguments = {**shared, **own, "record": str(record)}
                clients.append(Client("honest", record, arguments))
        arguments = {
            "http": service.http,
            "grpc_url": service.grpc,
            "per_s": plan.crowd_per_s,
            "stay_s": plan.stay_s,
            "seed": plan.seed,
            "seconds": plan.seconds,
            "after_s": plan.calibrate_s,
        }
        clients.append(Client("crowd", folder / "crowd", arguments))
        yield clients
    finally:
        for client in clients:
            client.process.kill()
            client.process.communicate()


def _watched(pid: int, until: float, every_s: float) -> list[tuple[float, Vitals]]:
    """The server's vitals, again and again until then."""
    states = []
    while (now := time.monotonic()) < until:
        states.append((now, vitals(pid)))
        time.sleep(every_s)
    return states
