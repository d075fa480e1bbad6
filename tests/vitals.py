"""What a process holds: memory, file descriptors, threads, CPU time; from outside, by Linux' /proc."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Vitals:
    """`rss_mib`: resident memory in MiB. `cpu_s`: seconds of CPU since the start of the process."""

    rss_mib: float
    descriptors: int
    threads: int
    cpu_s: float


def vitals(pid: int) -> Vitals:
    """Raises OSError if there is no such process."""
    folder = Path(f"/proc/{pid}")
    resident = int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    # Behind the name, which may hold blanks: state is field 3, utime 14, stime 15, num_threads 20.
    stat = (folder / "stat").read_text().rpartition(")")[2].split()
    return Vitals(
        rss_mib=resident / MIB,
        descriptors=len(os.listdir(folder / "fd")),
        threads=int(stat[17]),
        cpu_s=(int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK"),
    )


def peak_mib(pid: int) -> float:
    """The most memory that was ever resident, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no VmHWM in /proc/{pid}/status")


def settled(pid: int, descriptors: int, within_s: float = 30) -> Vitals:
    """The vitals as soon as no more than `descriptors` are open, or after `within_s` seconds."""
    until = time.monotonic() + within_s
    while (found := vitals(pid)).descriptors > descriptors and time.monotonic() < until:
        time.sleep(0.05)
    return found


def children(pid: int) -> list[int]:
    """The processes that it has started and that have not been waited for."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has just ended
            found += [int(child) for child in (task / "children").read_text().split()]
    return found
