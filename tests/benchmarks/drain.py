"""`python -m tests.benchmarks.drain`: takes a service's answers and throws them away.

A client of next to no cost, so that a replica can be measured on a machine that has no cores to
spare for clients. It asks for one window after another, as a client does, over `connections`
connections, and for `seconds`, from a line of standard input on, counts the bytes of bodies. The
kernel drops them without a copy.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from itertools import count
from urllib.parse import urlencode, urlsplit

from metalm_proto import query
from metalm_proto.spec import BatchRequest, Spec

_CHUNK = 2**20


class Drain:
    """`bytes`: of bodies, so far."""

    def __init__(self, url: str, request: BatchRequest, windows: count[int]) -> None:
        self.bytes = 0
        self._request = request
        self._windows = windows
        parts = urlsplit(url)
        self._host = parts.netloc
        self._socket = socket.create_connection((parts.hostname or "", parts.port or 80))
        self._buffer = bytearray(_CHUNK)

    def run(self) -> None:
        while True:
            self._take(next(self._windows))

    def _take(self, window: int) -> None:
        samples = self._request.samples
        pairs = dict(query.batches_pairs(self._request))
        pairs |= {"start": str(window * samples), "stop": str((window + 1) * samples)}
        target = f"/batches?{urlencode(pairs)}"
        self._socket.sendall(f"GET {target} HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode())
        left = self._begin()
        while left:
            got = self._socket.recv_into(self._buffer, min(left, _CHUNK), socket.MSG_TRUNC)
            if not got:
                raise ConnectionError("the service closed the connection")
            self.bytes += got
            left -= got

    def _begin(self) -> int:
        """Reads a head, and no byte behind it; the length of the body."""
        seen = b""
        while b"\r\n\r\n" not in seen:
            seen = self._socket.recv(4096, socket.MSG_PEEK)
            if not seen:
                raise ConnectionError("the service closed the connection")
        head = seen[: seen.index(b"\r\n\r\n") + 4]
        self._socket.recv(len(head))
        if not head.startswith(b"HTTP/1.1 200 "):
            raise ConnectionError(head.decode(errors="replace"))
        lines = head.decode().lower().split("\r\n")
        (length,) = (line.partition(":")[2] for line in lines if line.startswith("content-length:"))
        return int(length)


def main(
    url: str,
    spec: dict[str, float | str],
    batch_size: int,
    samples: int,
    seconds: float,
    connections: int,
) -> None:
    request = BatchRequest(
        spec=Spec(**spec),  # type: ignore[arg-type]  # Spec checks them
        seed=7,
        stop=samples,
        batch_size=batch_size,
    )
    windows = count()
    drains = [Drain(url, request, windows) for _ in range(connections)]
    for drain in drains:
        threading.Thread(target=drain.run, daemon=True).start()
    while not all(drain.bytes for drain in drains):
        time.sleep(0.001)
    print("flowing", flush=True)
    sys.stdin.readline()
    before, began, used = sum(d.bytes for d in drains), time.perf_counter(), time.process_time()
    time.sleep(seconds)
    got, elapsed = sum(d.bytes for d in drains) - before, time.perf_counter() - began
    used = time.process_time() - used
    print(json.dumps({"bytes": got, "seconds": elapsed, "cpu_s": used}), flush=True)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
