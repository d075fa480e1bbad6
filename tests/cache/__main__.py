"""`python -m tests.cache`: what a cache gains, on this machine."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

from metalm import MetaLMClient, Spec
from tests.cache.nginx import Nginx, states
from tests.service_process import running

SPEC = Spec(V=64, n=10, l=64, e=0.1, L=4096)
BATCH_SIZE, BATCHES, ROUNDS = 32, 512, 5


def sweep(url: str, seed: int) -> tuple[float, list[int]]:
    """Million tokens a second of verified batches, and their digests."""
    with MetaLMClient(url) as client:
        run = client.batches(spec=SPEC, seed=seed, batch_size=BATCH_SIZE, count=BATCHES)
        began = time.perf_counter()
        digests = [batch.digest for batch in run]
        elapsed = time.perf_counter() - began
    return BATCHES * BATCH_SIZE * SPEC.L / elapsed / 1e6, digests


def main() -> None:
    rates: dict[str, list[float]] = {"service": [], "first": [], "second": []}
    cpu_s: dict[str, list[float]] = {"first": [], "second": []}
    with (
        tempfile.TemporaryDirectory() as folder,
        running() as service,
        Nginx(service.http, Path(folder)) as nginx,
    ):
        sweep(service.http, 0)
        for seed in range(1, ROUNDS + 1):
            rate, without = sweep(service.http, seed)
            rates["service"].append(rate)
            for name in ("first", "second"):
                before = _cpu_s(service.process.pid)
                rate, digests = sweep(nginx.url, seed)
                cpu_s[name].append(_cpu_s(service.process.pid) - before)
                rates[name].append(rate)
                assert digests == without
        lines = nginx.lines(1)
        asked = sum(line.asked for line in lines)
        found = states(lines)
    assert found["MISS"] == found["HIT"] == asked, found
    tokens = BATCHES * BATCH_SIZE * SPEC.L
    print(f"sweeps of {tokens / 1e6:.0f} million tokens, verified; medians of {ROUNDS}")
    print(f"{len(lines)} requests, {found['HIT']} from the cache, {asked} to the service")
    print("| | Mtok/s | service's CPU, ns a token |")
    print("|---|---|---|")
    print(f"| without a cache | {statistics.median(rates['service']):.0f} | |")
    for name in ("first", "second"):
        cost = statistics.median(cpu_s[name]) / tokens * 1e9
        print(f"| {name} sweep | {statistics.median(rates[name]):.0f} | {cost:.2f} |")
    again = statistics.median(b / a for a, b in zip(rates["first"], rates["second"], strict=True))
    print(f"second sweep: {again:.2f} times the first")


def _cpu_s(process: int) -> float:
    """CPU seconds that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
