"""A replica at ports of its own, which are the same after every restart."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import urllib3


class Replica:
    """A `metalm serve`. `state`: "starting", "ready" or "stopped" (by SIGSTOP)."""

    def __init__(self, ports: Iterator[int]) -> None:
        self.port, self.grpc_port = next(ports), next(ports)
        self.http = f"http://127.0.0.1:{self.port}"
        self.grpc = f"grpc://127.0.0.1:{self.grpc_port}"
        self._pool = urllib3.PoolManager(retries=False, timeout=1)
        self.start()

    def start(self) -> None:
        ports = ["--port", str(self.port), "--grpc-port", str(self.grpc_port)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "metalm", "serve", *ports],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.state = "starting"

    def look(self) -> None:
        """Takes note of a start that is over."""
        if self.state == "starting":
            try:
                if self._pool.request("GET", f"{self.http}/readyz").status == 200:
                    self.state = "ready"
            except urllib3.exceptions.HTTPError:
                if self._process.poll() is not None:
                    raise RuntimeError(f"{self.http} did not start") from None

    def kill(self) -> None:
        """With SIGKILL."""
        self._process.kill()
        self._process.wait()
        self._pool.clear()

    def stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)
        self.state = "stopped"

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)
        self.state = "ready"


def fixed_ports() -> Iterator[int]:
    """Ports that are free, and that the system gives to nobody who asks for any."""
    for port in random.SystemRandom().sample(range(20000, 32000), 1000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port
