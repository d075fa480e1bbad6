"""A replica on cores of its own, and what it costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metalm_proto import wire
from metalm_proto.spec import BatchRequest, Spec
from tests.service_process import Service, running

ALL_CORES = sorted(os.sched_getaffinity(0))
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is asked of a replica, window after window. `spec`: the arguments of `Spec`."""

    spec: dict[str, Any]
    batch_size: int = 32
    batches: int = 64

    @property
    def request(self) -> BatchRequest:
        return BatchRequest(
            spec=Spec(**self.spec),
            seed=7,
            stop=self.batch_size * self.batches,
            batch_size=self.batch_size,
        )

    @property
    def wire_bytes(self) -> float:
        """Of a body, per token."""
        length = wire.encoded_length(self.request)
        assert length is not None
        return length / (self.request.samples * self.request.spec.L)


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Tokens a second, and the cores that the replica and its reader kept busy."""

    tokens: float
    replica_cores: float
    reader_cores: float


@contextmanager
def pinned(*cores: int) -> Iterator[None]:
    """What is started meanwhile has these cores, and knows of no others."""
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, ALL_CORES)


@contextmanager
def replica(*cores: int, **environment: str) -> Iterator[Service]:
    with pinned(*cores):
        starting = running(**environment)
        service = starting.__enter__()
    try:
        yield service
    finally:
        starting.__exit__(None, None, None)


def drained(
    places: list[tuple[Service, int]], load: Load, seconds: float, connections: int = 2
) -> list[Rate]:
    """Replicas, each with the core where its reader is, all at the same time."""
    arguments = {
        "spec": load.spec,
        "batch_size": load.batch_size,
        "samples": load.request.samples,
        "seconds": seconds,
        "connections": connections,
    }
    readers = []
    for service, core in places:
        with pinned(core):
            told = json.dumps({"url": service.http, **arguments})
            readers.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.benchmarks.drain", told],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
    for reader in readers:
        assert reader.stdout is not None
        if not reader.stdout.readline():
            raise RuntimeError("a reader failed; see the lines above")
    before = [cpu_s(service.process.pid) for service, _ in places]
    for reader in readers:
        assert reader.stdin is not None
        reader.stdin.write("go\n")
        reader.stdin.flush()
    said = [json.loads(reader.communicate()[0]) for reader in readers]
    return [
        Rate(
            tokens=one["bytes"] / one["seconds"] / load.wire_bytes,
            replica_cores=(cpu_s(service.process.pid) - used) / one["seconds"],
            reader_cores=one["cpu_s"] / one["seconds"],
        )
        for (service, _), used, one in zip(places, before, said, strict=True)
    ]


def cpu_s(process: int) -> float:
    """CPU seconds that a process has used, the kernel's work for it included."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_bytes(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE


def peak_bytes(process: int) -> int:
    """The most that was ever resident."""
    status = Path(f"/proc/{process}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
