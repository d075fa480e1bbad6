"""The command `metalm` in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Protocol

COMMAND = [sys.executable, "-m", "metalm"]


class Process(Protocol):
    """What can be asked whether it has ended."""

    def poll(self) -> int | None: ...


def run(
    *arguments: str, check: bool = True, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """The command, run to its end; with `check`, one that must succeed."""
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, env={**os.environ, **environment}
    )
    if check:
        assert done.returncode == 0, done.stderr.decode()
    return done


def wait_until(happened: Callable[[], bool], process: Process) -> None:
    """Returns as soon as something has happened that the process does before it ends."""
    until = time.monotonic() + 60
    while not happened():
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < until
        time.sleep(0.001)
