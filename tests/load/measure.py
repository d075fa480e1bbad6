"""What the service does under more load than it can bear: figures, each with its bound.

Ratios are to a baseline of the same run. The machine should have nothing else to do.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import urllib3
from grpc_health.v1 import health_pb2, health_pb2_grpc

from metalm import DeadlineExceeded
from tests.door import opened
from tests.load.reader import Tally
from tests.service_process import Service, running

STREAM = "/batches?V=64&n=10&l=64&e=0.1&L=4096&seed=1&batch_size=32&stop={samples}"
PLACES = 8
_DOORS = {"http": "HTTP", "grpc": "gRPC"}
ROUNDS = 3


@dataclass(frozen=True)
class Figure:
    """`holds`: whether it keeps its bound."""

    name: str
    found: str
    bound: str
    holds: bool


def percentile(values: Sequence[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


class Load:
    """Readers that have begun, each client in a process of its own; `tallies` waits for their end."""

    def __init__(self, url: str, seconds: float, clients: Sequence[dict[str, Any]]) -> None:
        host, port = url.partition("://")[2].split(":")
        self._seconds = seconds
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.load.reader"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in clients
        ]
        for process, each in zip(self._processes, clients, strict=True):
            self._tell(process, {"host": host, "port": int(port), "client": each})
        # All of them have started, and are connected, before the first begins: what that takes is
        # no part of the load.
        for process in self._processes:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
        begin = time.time() + 0.1
        for process in self._processes:
            self._tell(process, {"begin": begin, "until": begin + seconds})

    @staticmethod
    def _tell(process: subprocess.Popen[str], told: dict[str, Any]) -> None:
        assert process.stdin
        process.stdin.write(json.dumps(told) + "\n")
        process.stdin.flush()

    def tallies(self) -> list[Tally]:
        found = []
        for process in self._processes:
            output, _ = process.communicate(timeout=self._seconds + 60)
            assert process.returncode == 0
            found.append(Tally(**json.loads(output)))
        return found


def client(number: int, streams: int, samples: int = 32 * 64) -> dict[str, Any]:
    return {
        "source": f"127.0.0.{number}", "path": STREAM.format(samples=samples), "streams": streams,
    }  # fmt: skip


class Probes:
    """Asks the probes of both doors again and again, and keeps how long each answer took."""

    def __init__(self, service: Service) -> None:
        self.taken: list[float] = []
        self.failed: list[str] = []
        self._service = service
        self._over = threading.Event()
        self._threads = [threading.Thread(target=ask) for ask in (self._ask_http, self._ask_grpc)]

    def __enter__(self) -> Probes:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask_http(self) -> None:
        with urllib3.PoolManager(retries=False) as pool:
            self._ask(lambda: pool.request("GET", f"{self._service.http}/healthz").status == 200)

    def _ask_grpc(self) -> None:
        with grpc.insecure_channel(self._service.grpc.removeprefix("grpc://")) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            serving = health_pb2.HealthCheckResponse.SERVING
            self._ask(lambda: stub.Check(health_pb2.HealthCheckRequest()).status == serving)

    def _ask(self, probe: Callable[[], bool]) -> None:
        while not self._over.wait(0.05):
            begun_at = time.perf_counter()
            try:
                well = probe()
            except (urllib3.exceptions.HTTPError, grpc.RpcError) as error:
                self.failed.append(repr(error))
                continue
            self.taken.append(time.perf_counter() - begun_at)
            if not well:
                self.failed.append("not well")

    def figure(self, under: str) -> Figure:
        p99, longest = percentile(self.taken, 99), max(self.taken)
        return Figure(
            f"probes of both doors {under}",
            f"p99 {1000 * p99:.0f} ms, longest {1000 * longest:.0f} ms, "
            f"{len(self.failed)} of {len(self.taken)} failed",
            "p99 < 250 ms, none > 1 s, none fails",
            p99 < 0.25 and longest < 1 and not self.failed,
        )


def rate(tallies: Sequence[Tally], seconds: float) -> float:
    """Mtok/s; x and y of a position are one token."""
    return sum(tally.answered_bytes for tally in tallies) / 2 / seconds / 1e6


@contextmanager
def service(*flags: str) -> Iterator[Service]:
    with running(*flags) as found:
        yield found


def goodput(
    url: str, seconds: float, few: Sequence[dict[str, Any]], many: Sequence[dict[str, Any]]
) -> tuple[Figure, list[Tally]]:
    """What the service gives to `many` clients, against the most that it gives to as many of the
    `few` as it can bear; and what those many got."""
    Load(url, 2, few[:2]).tallies()
    bearable: dict[int, list[float]] = {2: [], 4: [], PLACES: []}
    under_load: list[float] = []
    tallies: list[Tally] = []
    # One after the other in rounds: what else the machine does meets all of them alike.
    for _ in range(ROUNDS):
        for count, rates in bearable.items():
            rates.append(rate(Load(url, seconds, few[:count]).tallies(), seconds))
        # Without the probes, which would count against it.
        round_tallies = Load(url, seconds, many).tallies()
        under_load.append(rate(round_tallies, seconds))
        tallies += round_tallies
    peak = max(map(statistics.median, bearable.values()))
    share = statistics.median(under_load) / peak
    door = url.partition(":")[0]
    figure = Figure(
        f"{_DOORS[door]}: {10 * PLACES} streams for {PLACES} places: goodput",
        f"{100 * share:.0f} % of the peak of {peak:.0f} Mtok/s",
        ">= 90 %",
        share >= 0.9,
    )
    return figure, tallies


def overload(seconds: float) -> list[Figure]:
    """Ten times as many streams as the service takes, from eight clients."""
    few = [client(2 + k, 1) for k in range(PLACES)]
    many = [client(2 + k, 10) for k in range(PLACES)]
    with service("--max-requests", str(PLACES)) as found:
        figure, tallies = goodput(found.http, seconds / 2, few, many)
        with Probes(found) as probes:
            Load(found.http, seconds, many).tallies()
        begun_at = time.perf_counter()
        with opened(found.http) as door:
            door.sample(L=4096)
        normal_s = time.perf_counter() - begun_at
    return [
        figure,
        _refusals("HTTP", tallies),
        Figure("normal again after it", f"{normal_s:.2f} s", "<= 5 s", normal_s <= 5),
        probes.figure("under it"),
    ]


def _refusals(door: str, tallies: Sequence[Tally]) -> Figure:
    burst = [taken for tally in tallies for taken in tally.burst]
    later = [taken for tally in tallies for taken in tally.refusals]
    refusals = burst + later
    errors = [error for tally in tallies for error in tally.errors]
    without_hint = sum(tally.without_hint for tally in tallies)
    assert len(refusals) >= 80, f"too little load: {len(refusals)} refusals"
    return Figure(
        f"{door}: refusals, all with the time to come again",
        f"{len(refusals)}: p50 {1000 * statistics.median(refusals):.1f} ms, "
        f"p99 {1000 * percentile(refusals, 99):.0f} ms; of {len(burst) // ROUNDS} at one moment "
        f"p50 {1000 * statistics.median(burst):.0f} ms, of {len(later)} later "
        f"{1000 * statistics.median(later or [0.0]):.1f} ms; {without_hint} without, "
        f"{len(errors)} other errors",
        "p50 <= 20 ms, none without, no errors",
        statistics.median(refusals) <= 0.02 and not without_hint and not errors,
    )


def overload_over_grpc(seconds: float) -> list[Figure]:
    """The same through the other door."""
    tokens = {f"client{k}": f"client{k}".ljust(16, "-") for k in range(PLACES)}
    few = [_with_token(token, 1) for token in tokens.values()]
    many = [_with_token(token, 10) for token in tokens.values()]
    with running("--max-requests", str(PLACES), METALM_TOKENS=_given(tokens)) as found:
        figure, tallies = goodput(found.grpc, seconds / 2, few, many)
    return [figure, _refusals("gRPC", tallies)]


def _given(tokens: dict[str, str]) -> str:
    return ", ".join(f"{name} {token}" for name, token in tokens.items())


def fair_shares(seconds: float) -> list[Figure]:
    """One client with fifty streams beside three with one each; over gRPC they are told apart by
    their tokens."""
    names = ("greedy", "one", "two", "three")
    tokens = {name: f"{name:=<16}".replace("=", "-") for name in names}
    with service() as found:
        crowd = [client(2, 50), *(client(3 + k, 1) for k in range(3))]
        alike = [client(2 + k, 1) for k in range(4)]
        figures = [_share("HTTP", found.http, seconds, crowd, alike)]
    with running(METALM_TOKENS=_given(tokens)) as found:
        crowd = [_with_token(tokens[name], 50 if name == "greedy" else 1) for name in names]
        alike = [_with_token(tokens[name], 1) for name in names]
        return [*figures, _share("gRPC", found.grpc, seconds, crowd, alike)]


def _with_token(token: str, streams: int) -> dict[str, Any]:
    return {"token": token, "samples": 32 * 64, "streams": streams}


def _share(
    door: str,
    url: str,
    seconds: float,
    crowd: Sequence[dict[str, Any]],
    alike: Sequence[dict[str, Any]],
) -> Figure:
    Load(url, 2, alike).tallies()
    alone = rate(Load(url, seconds, alike).tallies(), seconds)
    tallies = Load(url, seconds, crowd).tallies()
    assert not [error for tally in tallies for error in tally.errors]
    rates = [rate([tally], seconds) for tally in tallies]
    fair = sum(rates) / 4
    least = min(rates[1:]) / fair
    return Figure(
        f"{door}: one client at 50 times the load of three others; the least of theirs",
        f"{100 * least:.0f} % of a fair share of {fair:.0f} Mtok/s "
        f"(all: {sum(rates):.0f}; four alike: {alone:.0f})",
        ">= 80 %",
        least >= 0.8,
    )


def stalled_readers(seconds: float) -> list[Figure]:
    """What readers that never read do to those that do, and for how long."""
    with service("--max-client-share", "1") as found:
        Load(found.http, 2, [client(2, 2)]).tallies()
        before = Load(found.http, seconds, [client(2, 2, samples=32)]).tallies()[0].firsts
        with opened(found.http) as http, opened(found.grpc) as grpc_door:
            resident = resident_mib(found)
            stalled = [door.batches(L=2**17, count=1000) for door in (http, grpc_door) * 5]
            begun_at = time.perf_counter()
            for stream in stalled:
                next(stream)
            with Probes(found) as probes:
                beside = Load(found.http, seconds, [client(2, 2, samples=32)]).tallies()[0].firsts
            grown = resident_mib(found) - resident
            while open_calls(found) > 0 and time.perf_counter() - begun_at < 60:
                time.sleep(0.2)
            ended_s = time.perf_counter() - begun_at
            for stream in stalled:
                stream.close()
    ratio = percentile(beside, 99) / percentile(before, 99)
    return [
        Figure(
            "p99 of others beside ten readers that never read",
            f"{ratio:.2f} times ({1000 * percentile(beside, 99):.1f} ms)",
            "<= 2 times",
            ratio <= 2,
        ),
        Figure("memory that they take", f"{grown:.0f} MiB", "<= 512 + 32 MiB", grown <= 544),
        Figure("their end", f"after {ended_s:.0f} s", "<= 30 s", ended_s <= 30),
        probes.figure("beside them"),
    ]


def resident_mib(found: Service) -> float:
    pages = int(Path(f"/proc/{found.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def open_calls(found: Service) -> int:
    """Requests that are under way: what /metrics says of them."""
    text = urllib3.request("GET", f"{found.http}/metrics").data.decode()
    return int(
        sum(
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.startswith("metalm_requests_in_flight ")
        )
    )


def left_alone() -> list[Figure]:
    """How soon work ends for which there is nobody any more."""
    figures = []
    for name, kind in (("HTTP", "http"), ("gRPC", "grpc")):
        # A telling of some seconds, on the only thread.
        with service("--threads", "1") as found:
            taken = []
            for index in range(5):
                with opened(getattr(found, kind), timeout_s=0.5) as door:
                    with suppress(DeadlineExceeded):
                        door.sample(index, n=2**15, l=600, L=1, provenance=True)
                left_at = time.perf_counter()
                with opened(getattr(found, kind)) as door:
                    door.sample(L=5)
                taken.append(time.perf_counter() - left_at)
        middle = statistics.median(taken)
        figures.append(
            Figure(
                f"{name}: a deadline passes, the next one has the core",
                f"after {1000 * middle:.0f} ms (its own connection and answer included)",
                "<= 100 ms",
                middle <= 0.1,
            )
        )
    return figures


WRONG = ("V=-1", "V=2147483646", "n=0", "l=nan", "l=1e400", "e=1", "L=1e12", "L=18446744073709551616",
         "seed=-1", "seed=true", "mask_ratio=-inf", "n=2.5", "V=99999999999999999999999999")  # fmt: skip


def wrong_values() -> list[Figure]:
    """How long a refusal of a wrong value takes, and what it allocates."""
    with service() as found, urllib3.PoolManager(retries=False) as pool:

        def ask(pair: str) -> float:
            begun_at = time.perf_counter()
            answer = pool.request("GET", f"{found.http}/batches?stop=5&{pair}")
            assert answer.status == 400, (pair, answer.data)
            return time.perf_counter() - begun_at

        for pair in WRONG * 20:
            ask(pair)
        before = resident_mib(found)
        taken = [ask(pair) for pair in WRONG * 100]
        grown = resident_mib(found) - before
    p50, p99 = statistics.median(taken), percentile(taken, 99)
    return [
        Figure(
            f"refusals of {len(taken)} wrong values",
            f"p50 {1000 * p50:.1f} ms, p99 {1000 * p99:.1f} ms, {grown:+.1f} MiB",
            "p99 < 10 ms, nothing is left allocated",
            p99 < 0.01 and grown < 2,
        )
    ]


def drained() -> list[Figure]:
    """The end of a service with readers that never read, and with one that does."""
    with service() as found, opened(found.http) as http, opened(found.grpc) as grpc_door:
        for door in (http, grpc_door):
            next(door.batches(L=2**14))
        reading = http.batches(L=2**14, count=200)
        next(reading)
        begun_at = time.perf_counter()
        found.process.send_signal(signal.SIGTERM)
        rest = len(list(reading))
        status = found.process.wait(60)
        seconds = time.perf_counter() - begun_at
    return [
        Figure(
            "SIGTERM with two readers that never read",
            f"gone after {seconds:.1f} s with status {status}; {rest} of 199 batches given",
            "<= 25 s, status 0, all batches",
            seconds <= 25 and status == 0 and rest == 199,
        )
    ]


def measure(seconds: float) -> Iterator[Figure]:
    """All of it; `seconds` for each load."""
    yield from overload(seconds)
    yield from overload_over_grpc(seconds)
    yield from fair_shares(seconds)
    yield from stalled_readers(seconds)
    yield from left_alone()
    yield from wrong_values()
    yield from drained()
