"""Clients in processes of their own, which begin together."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_READY = "ready"


class Client:
    """`python -m tests.soak.MODULE`. `record`: the file that it writes. `broken`: it failed."""

    def __init__(self, module: str, record: Path, arguments: dict[str, Any]) -> None:
        self.module = module
        self.record = record
        self.broken = False
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"tests.soak.{module}", json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ended(self, within_s: float) -> str:
        """What it printed since it began."""
        try:
            told, _ = self.process.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            told, _ = self.process.communicate()
        self.broken = self.process.returncode != 0
        return told


def begin(clients: list[Client]) -> float:
    """Lets the clients begin as soon as all are ready; when that was, by the monotonic clock.

    Raises RuntimeError if one does not start.
    """
    for client in clients:
        assert client.process.stdout is not None
        if client.process.stdout.readline().strip() != _READY:
            raise RuntimeError(f"{client.module} did not start")
    for client in clients:
        assert client.process.stdin is not None
        client.process.stdin.write("\n")
        client.process.stdin.flush()
    return time.monotonic()


def starting_together() -> float:
    """In a client: says that it is ready, and returns when all begin, with the time."""
    print(_READY, flush=True)
    sys.stdin.readline()
    return time.monotonic()
