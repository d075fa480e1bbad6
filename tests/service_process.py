"""A real `metalm serve` in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Queue
from typing import IO, Protocol

READY = re.compile(
    r"metalm \S+ ready: (https?://\S+) (grpcs?://\S+) \((\w+) engine\)(?:, admin (\S+))?"
)
START_TIMEOUT_S = 60
PORTS = ("--port", "0", "--grpc-port", "0")
PORT_FLAGS = {"http": "--port", "grpc": "--grpc-port"}


class Process(Protocol):
    """What is asked of the process of a service: a part of `subprocess.Popen`."""

    @property
    def pid(self) -> int: ...
    @property
    def stdout(self) -> IO[str] | None: ...
    @property
    def stderr(self) -> IO[str] | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


@dataclass
class Service:
    """The process, the two addresses it told, and the lines it printed."""

    process: Process
    http: str
    grpc: str
    admin: str
    lines: list[str] = field(default_factory=list)

    def port_flag(self, door: str) -> tuple[str, str]:
        """What has another service listen at the same port of a door."""
        return PORT_FLAGS[door], getattr(self, door).rpartition(":")[2]

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 30) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout_s)


def metalm(*arguments: str, program: str = "metalm", **environment: str) -> subprocess.Popen[str]:
    """The command `metalm`, with its output in pipes; `program`: another module in its place."""
    return subprocess.Popen(
        [sys.executable, "-m", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # gRPC prints what callers sent as it came.
        errors="backslashreplace",
        env={**os.environ, **environment},
    )


@contextmanager
def running(*flags: str, program: str = "metalm", **environment: str) -> Iterator[Service]:
    """A service on free ports that is ready; killed at the end if it still runs."""
    with ready(metalm("serve", *PORTS, *flags, program=program, **environment)) as service:
        yield service


@contextmanager
def ready(process: Process) -> Iterator[Service]:
    """The service that has begun in a process, once it is ready."""
    assert process.stdout is not None
    assert process.stderr is not None
    lines: list[str] = []
    printed: Queue[str] = Queue()

    def drain(stream: Iterable[str]) -> None:
        for line in stream:
            lines.append(line)
            printed.put(line)
        printed.put("")

    readers = [
        threading.Thread(target=drain, args=(stream,), daemon=True)
        for stream in (process.stdout, process.stderr)
    ]
    for reader in readers:
        reader.start()
    try:
        while not (match := READY.search(printed.get(timeout=START_TIMEOUT_S))):
            if process.poll() is not None:
                raise RuntimeError("".join(lines))
        yield Service(process, match[1], match[2], match[4] or "", lines)
    finally:
        process.kill()
        process.wait()
        for reader in readers:
            reader.join(5)
        for stream in (process.stdout, process.stderr):
            stream.close()
