"""`python -m tests.benchmarks.scaling`: what a replica gives, costs and takes, and what two give.

The figures of docker/SIZING.md. Medians of several rounds, in each of which everything that is
compared is measured in turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from metalm import MetaLMClient
from metalm_service.config import COPIES, ServerConfig
from tests.benchmarks.replica import (
    ALL_CORES,
    Load,
    Rate,
    cpu_s,
    drained,
    peak_bytes,
    pinned,
    replica,
    resident_bytes,
)
from tests.service_process import Service

SPEC: dict[str, Any] = {"V": 64, "n": 10, "l": 64, "e": 0.1, "L": 4096}
LOAD = Load(spec=SPEC)
LOADS = {
    "V=64, 32 x 4096": LOAD,
    "V=1000, 32 x 4096": Load(spec={**SPEC, "V": 1000}),
    "V=100000, 32 x 4096": Load(spec={**SPEC, "V": 100_000}),
    "V=64, 4 x 65536": Load(spec={**SPEC, "L": 65536}, batch_size=4, batches=32),
    "V=64, 32 x 256": Load(spec={**SPEC, "L": 256}, batches=512),
    "V=64, 1 x 256": Load(spec={**SPEC, "L": 256}, batch_size=1, batches=2048),
}
_MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scaling")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    given = parser.parse_args()
    if len(ALL_CORES) < 2:
        parser.error("it needs two cores")
    rounds, seconds = given.rounds, given.seconds
    with ExitStack() as stack:
        replicas = [stack.enter_context(replica(core)) for core in ALL_CORES[:2]]
        wide = stack.enter_context(replica(*ALL_CORES[:2]))
        print("\n## Replicas and readers that throw all away, on the same cores\n")
        _cells(replicas, wide, rounds, seconds)
        print("\n## One client, verifying, on replicas with a core each\n")
        _client(replicas, rounds, seconds)
        print("\n## What a token costs a replica with a core of its own\n")
        _costs(replicas[0], rounds, seconds)
    print("\n## Memory\n")
    _memory(seconds)


def _cells(replicas: Sequence[Service], wide: Service, rounds: int, seconds: float) -> None:
    cells = list(zip(replicas, ALL_CORES, strict=False))
    places = {
        "1 replica, 1 core": cells[:1],
        "2 replicas, 1 core each": cells,
        "1 replica, 2 cores": [(wide, ALL_CORES[1])],
    }
    found = [
        {name: drained(cells, LOAD, seconds, 4) for name, cells in places.items()}
        for _ in range(rounds)
    ]
    print("| | Mtok/s | times the first | cores of replicas | cores of readers |")
    print("|---|---|---|---|---|")
    for name in places:
        here = [rates[name] for rates in found]
        ratio = statistics.median(
            _tokens(rates[name]) / _tokens(rates["1 replica, 1 core"]) for rates in found
        )
        print(
            f"| {name} | {statistics.median(map(_tokens, here)) / 1e6:.0f} | {ratio:.2f} "
            f"| {_median(here, lambda rate: rate.replica_cores):.2f} "
            f"| {_median(here, lambda rate: rate.reader_cores):.2f} |"
        )


def _tokens(rates: list[Rate]) -> float:
    return sum(rate.tokens for rate in rates)


def _median(rounds: list[list[Rate]], value: Callable[[Rate], float]) -> float:
    return statistics.median(sum(map(value, rates)) for rates in rounds)


def _client(replicas: Sequence[Service], rounds: int, seconds: float) -> None:
    print("| door | replicas | the client has | Mtok/s | cores of replicas | of the client |")
    print("|---|---|---|---|---|---|")
    settings = [(1, ALL_CORES[1:2]), (2, ALL_CORES[:2])]
    for door in ("http", "grpc"):
        found: list[list[tuple[float, float, float]]] = [[] for _ in settings]
        for _ in range(rounds):
            for (count, cores), rows in zip(settings, found, strict=True):
                with pinned(*cores):
                    rows.append(_consumed(replicas[:count], door, seconds))
        for (count, _), rows in zip(settings, found, strict=True):
            tokens, theirs, ours = (statistics.median(row[i] for row in rows) for i in range(3))
            place = "a core of its own" if count == 1 else "what they leave of two cores"
            print(
                f"| {door} | {count} | {place} | {tokens / 1e6:.0f} | {theirs:.2f} | {ours:.2f} |"
            )


def _consumed(replicas: Sequence[Service], door: str, seconds: float) -> tuple[float, float, float]:
    """Tokens a second, and the cores that the replicas and the client kept busy."""
    urls = [getattr(service, door) for service in replicas]
    with MetaLMClient(urls) as client, client.batches(**SPEC, batch_size=32, seed=7) as batches:
        for _ in range(64):
            next(batches)
        processes = [service.process.pid for service in replicas]
        theirs, ours = sum(map(cpu_s, processes)), time.process_time()
        tokens, began = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - began) < seconds:
            tokens += next(batches).x.size
        ours = time.process_time() - ours
        theirs = sum(map(cpu_s, processes)) - theirs
    return tokens / elapsed, theirs / elapsed, ours / elapsed


def _costs(service: Service, rounds: int, seconds: float) -> None:
    found: dict[str, list[Rate]] = {name: [] for name in LOADS}
    for _ in range(rounds):
        for name, load in LOADS.items():
            found[name] += drained([(service, ALL_CORES[1])], load, seconds / 2)
    print("| batches | bytes a token | CPU, ns a token | Mtok/s of a core | Gbit/s of a core |")
    print("|---|---|---|---|---|")
    for name, rates in found.items():
        cost = statistics.median(rate.replica_cores / rate.tokens for rate in rates)
        wire = LOADS[name].wire_bytes
        print(
            f"| {name} | {wire:.2f} | {cost * 1e9:.2f} | {1e-6 / cost:.0f} "
            f"| {8e-9 * wire / cost:.1f} |"
        )


def _memory(seconds: float) -> None:
    """A replica at rest, and the most that it ever had while its whole budget was taken."""
    config = ServerConfig()
    connections = config.max_requests
    # Beside its copies a request has some KiB to work in.
    share = (config.max_inflight_bytes // connections - 2**16) // COPIES
    load = Load(spec=SPEC, batch_size=share // (2 * int(SPEC["L"])), batches=8)
    # All readers are one client to it.
    with replica(*ALL_CORES, METALM_MAX_CLIENT_SHARE="1") as service:
        rest = resident_bytes(service.process.pid)
        drained([(service, ALL_CORES[-1])], load, 2 * seconds, connections)
        peak = peak_bytes(service.process.pid)
    print("| | MiB |")
    print("|---|---|")
    print(f"| ready, and nothing asked | {rest / _MIB:.0f} |")
    print(
        f"| the most with {connections} requests that take {config.max_inflight_bytes // _MIB} MiB | {peak / _MIB:.0f} |"
    )


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
