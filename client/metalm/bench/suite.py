"""`metalm bench`: the speed of the generator and of the doors, on this machine, in one run."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import urllib3

from metalm.bench.yardsticks import PlainNumpyGenerator, compile_c
from metalm.client import MetaLMClient
from metalm.transports import connect
from metalm_proto.batch import Batch, digest_of
from metalm_proto.spec import BatchRequest, Spec, Split

SPEC = Spec(V=64, n=10, l=64, e=0.1, L=4096)
BATCH_SIZE = 32
TOKENS = BATCH_SIZE * SPEC.L
"""x and y of a position together count as one token."""

_SEQUENCES = 1024
_START_TIMEOUT_S = 120
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class _Server:
    """A `metalm serve` of our own; `started_s` from its start to its ready line."""

    process: subprocess.Popen[str]
    http: str
    grpc: str
    started_s: float

    def resident_bytes(self) -> int | None:
        return _resident_bytes(self.process.pid)


@dataclass(slots=True)
class _Table:
    """Rows of (what, value, remark), printed as they come."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, what: str, value: str, remark: str = "") -> None:
        self.rows.append((what, value, remark))

    def __str__(self) -> str:
        head = ("", "median", "")
        widths = [max(len(row[i]) for row in [head, *self.rows]) for i in range(3)]
        rule = tuple("-" * width for width in widths)
        return "\n".join(
            "| "
            + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            + " |"
            for row in [head, rule, *self.rows]
        )


def run(*, quick: bool) -> None:
    """Measures and prints the table; `quick` for a single, short round.

    Every figure is the median of its rounds, and what is compared is measured in turn within
    each round, so that a machine whose speed drifts does not bend the ratios.
    """
    # What the last rows need is asked for before minutes are spent on the first ones.
    import_module("metalm_service.server")

    rounds, seconds = (1, 0.3) if quick else (7, 1.0)
    table = _Table()
    print(_machine())
    print(f"V={SPEC.V} n={SPEC.n} l={SPEC.l:g} e={SPEC.e} L={SPEC.L}, batches of {BATCH_SIZE}")
    print("Mtok/s: million tokens a second, x and y of a position counted once", flush=True)
    _measure_generators(table, rounds, seconds)
    _measure_environment(table, rounds, seconds)
    with _serving() as server:
        table.add("service, start to ready, warm cache", f"{server.started_s:.2f} s")
        _measure_doors(table, server, rounds, seconds)
        _measure_latency(table, server, rounds)
        _measure_memory(table, server, 10**8 if quick else 10**9)
    print(table)


def _measure_generators(table: _Table, rounds: int, seconds: float) -> None:
    """One thread each: the kernel, numpy's version, and what they are compared with."""
    from metalm_service.core import engine, reference

    engine.warm()
    plain = PlainNumpyGenerator(SPEC, seed=7)
    c_program = compile_c() if SPEC.dtype == np.uint8 else None
    out = np.empty((2, BATCH_SIZE, SPEC.L), SPEC.dtype)
    subjects: dict[str, Callable[[int], object]] = {
        "plain": lambda first: plain.batch(BATCH_SIZE),
        "reference": lambda first: reference.sample(SPEC, 7, Split.TRAIN, first),
        "kernel": lambda first: engine.generate(SPEC, 7, Split.TRAIN, first, out),
    }
    tokens = {"plain": TOKENS, "reference": SPEC.L, "kernel": TOKENS}
    if c_program is not None:
        generate = c_program.generate
        subjects["c"] = lambda first: generate(SPEC, 7, Split.TRAIN, first, out)
        tokens["c"] = TOKENS
        _check_same_bytes(generate, engine.generate)
    found: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, call in subjects.items():
            found[name].append(_rate(call, tokens[name], seconds))
    rate = {name: statistics.median(rates) for name, rates in found.items()}
    table.add("plain numpy, a sample at a time", f"{rate['plain']:.1f} Mtok/s", "one core")
    table.add("this project in numpy", f"{rate['reference']:.1f} Mtok/s", "one core")
    remark = f"one core, {_ratio(found, 'kernel', 'plain'):.0f} times plain numpy"
    table.add(
        f"this project's kernel ({engine.engine_name()})", f"{rate['kernel']:.0f} Mtok/s", remark
    )
    if c_program is not None:
        remark = f"one core; the kernel reaches {_ratio(found, 'kernel', 'c'):.0%} of it"
        table.add(f"C, {_without_path(c_program.compiler)}", f"{rate['c']:.0f} Mtok/s", remark)


def _measure_environment(table: _Table, rounds: int, seconds: float) -> None:
    """Whole episodes of the vector environment; one thread makes the samples and steps."""
    if find_spec("gymnasium") is None:
        return
    from metalm.gym import MetaLMVectorEnv

    envs = MetaLMVectorEnv(_SEQUENCES, **SPEC.as_dict(), seed=7)
    actions = np.ones(_SEQUENCES, np.int64)
    envs.reset()

    def episode(_: int) -> None:
        for _ in range(SPEC.L + 1):  # the last one begins the next episode
            envs.step(actions)

    rates = [_rate(episode, _SEQUENCES * SPEC.L, seconds) for _ in range(rounds)]
    table.add(
        f"gym environment, {_SEQUENCES} sequences",
        f"{statistics.median(rates):.1f} Mtok/s",
        "one core; a step of a sequence is a token",
    )


def _measure_doors(table: _Table, server: _Server, rounds: int, seconds: float) -> None:
    """Verified batches over loopback; server and client share the machine.

    A bare stream is one request that is read and decoded, and no more.
    """
    found: dict[str, list[float]] = {"http": [], "grpc": []}
    bare: dict[str, list[float]] = {"http": [], "grpc": []}
    cost: dict[str, list[float]] = {"http": [], "grpc": []}
    request = BatchRequest(spec=SPEC, seed=7, stop=2**20, batch_size=BATCH_SIZE)
    for _ in range(rounds):
        for name, rates in found.items():
            transport = connect(getattr(server, name), timeout_s=_START_TIMEOUT_S)
            with transport.batches(request) as stream:
                next(stream)
                tokens, elapsed = _consume(stream, seconds)
            transport.close()
            bare[name].append(tokens / elapsed / 1e6)
            with (
                MetaLMClient(getattr(server, name)) as client,
                client.batches(spec=SPEC, seed=7, batch_size=BATCH_SIZE) as batches,
            ):
                next(batches)
                used = time.process_time()
                tokens, elapsed = _consume(batches, seconds)
                used = time.process_time() - used
            rates.append(tokens / elapsed / 1e6)
            cost[name].append(used / tokens * 1e9)
    for name, title in (("http", "HTTP"), ("grpc", "gRPC")):
        share = statistics.median(a / b for a, b in zip(found[name], bare[name], strict=True))
        remark = f"client: {statistics.median(cost[name]):.2f} ns of CPU a token"
        remark += f"; {share:.0%} of a bare stream"
        if name == "grpc":
            remark += f"; {_ratio(found, 'grpc', 'http'):.2f} times HTTP"
        table.add(
            f"{title}, loopback, verified batches",
            f"{statistics.median(found[name]):.0f} Mtok/s",
            remark,
        )


def _measure_latency(table: _Table, server: _Server, rounds: int) -> None:
    pool = urllib3.PoolManager()
    url = f"{server.http}/sample?V=64&n=10"

    def sample() -> None:
        assert pool.request("GET", url).status == 200

    def first_batch(door: str) -> None:
        with MetaLMClient(door) as client, client.batches(spec=SPEC, seed=7) as batches:
            next(batches)

    sample()
    samples = [_seconds(sample) for _ in range(40 * rounds)]
    table.add(
        "GET /sample?V=64&n=10", f"{1e3 * statistics.median(samples):.2f} ms", "p50, a drawn seed"
    )
    for name, title in (("http", "HTTP"), ("grpc", "gRPC")):
        door = getattr(server, name)
        firsts = [_seconds(partial(first_batch, door)) for _ in range(5 * rounds)]
        table.add(
            f"{title}, first batch of a stream",
            f"{1e3 * statistics.median(firsts):.1f} ms",
            "a new client each, connection included",
        )


def _measure_memory(table: _Table, server: _Server, tokens: int) -> None:
    """Growth of resident memory between a tenth of the tokens and all of them."""
    for name, title in (("http", "HTTP"), ("grpc", "gRPC")):
        with (
            MetaLMClient(getattr(server, name)) as client,
            client.batches(spec=SPEC, seed=7, batch_size=BATCH_SIZE) as batches,
        ):
            for _ in range(tokens // 10 // TOKENS):
                next(batches)
            before = (server.resident_bytes(), _resident_bytes(os.getpid()))
            for _ in range(tokens * 9 // 10 // TOKENS):
                next(batches)
            after = (server.resident_bytes(), _resident_bytes(os.getpid()))
        if before[0] is None or before[1] is None or after[0] is None or after[1] is None:
            continue  # no /proc on this system
        table.add(
            f"{title}, memory over {tokens:.0e} tokens",
            f"{(after[0] - before[0]) / _MIB:+.1f} MiB server",
            f"{(after[1] - before[1]) / _MIB:+.1f} MiB client; "
            f"{after[0] / _MIB:.0f} and {after[1] / _MIB:.0f} MiB in all",
        )


def _consume(batches: Iterator[Batch], seconds: float) -> tuple[int, float]:
    """Tokens received, and the seconds that took: at least `seconds`."""
    tokens, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        x, _ = next(batches)
        tokens += x.size
    return tokens, elapsed


def _rate(call: Callable[[int], object], tokens: int, seconds: float) -> float:
    """Million tokens a second of a call that makes `tokens` tokens from a first sample on."""
    call(0)
    calls, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        calls += 1
        call(calls * BATCH_SIZE)
    return calls * tokens / elapsed / 1e6


def _ratio(found: dict[str, list[float]], one: str, other: str) -> float:
    """The median of the ratios, round by round."""
    return statistics.median(a / b for a, b in zip(found[one], found[other], strict=True))


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _check_same_bytes(*generators: Callable[..., None]) -> None:
    """A yardstick that makes something else would measure nothing."""
    digests = set()
    for generate in generators:
        out = np.zeros((2, 3, SPEC.L), SPEC.dtype)
        generate(SPEC, 7, Split.TRAIN, 5, out)
        digests.add(digest_of(*out))
    if len(digests) > 1:
        raise AssertionError("the C program and the kernel disagree")


@contextmanager
def _serving() -> Iterator[_Server]:
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "metalm", "serve", "--port", "0", "--grpc-port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "METALM_LOG_LEVEL": "warning"},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if "ready:" not in line:
            raise RuntimeError("the service did not start; see the lines above")
        http, grpc = line.split()[3:5]
        yield _Server(process, http, grpc, time.perf_counter() - began)
    finally:
        process.terminate()
        process.communicate(timeout=_START_TIMEOUT_S)


def _resident_bytes(process: int) -> int | None:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _machine() -> str:
    parts = [f"{os.cpu_count()} cores of {_processor()}", f"Python {platform.python_version()}"]
    for package in ("numpy", "numba", "grpcio", "uvicorn", "metalm"):
        try:
            parts.append(f"{package} {version(package)}")
        except ModuleNotFoundError:
            parts.append(f"no {package}")
    return ", ".join(parts)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _without_path(command: str) -> str:
    """The compiler and what tunes it; the flags that make it a library say nothing."""
    return " ".join(
        word for word in command.split() if word not in ("-shared", "-fPIC") and "std=" not in word
    )
