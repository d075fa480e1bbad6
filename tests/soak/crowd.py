"""Clients that are slow, leave, die or lie, in a process of their own; all of them go away again."""

from __future__ import annotations

import json
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import grpc

from metalm_proto.v1 import metalm_pb2 as pb
from metalm_proto.v1 import metalm_pb2_grpc
from tests.soak.processes import starting_together

_RESET = struct.pack("ii", 1, 0)
_STREAM = "/batches?L=4096&seed=1&batch_size=32&stop=32768"
"""256 MiB: nobody here reads all of it."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_LIES = (
    b"GET /sample?L=9 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nshort",
    b"POST /sample HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"GET /sample?L=9 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 7\r\n\r\nabcdefg",
    b"GET /sample?L=9 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\nabc",
    b"GET /sample?L=9 HTT",
    b"GET /batches?L=4096&stop=64&seed=1 HTTP/1.1\r\nHost: x\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
    b"\x00" * 512,
)
"""At the HTTP port: half requests, lengths that are not so, another protocol, nothing at all."""
_GARBAGE = (
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    _PREFACE[:10],
    _PREFACE
    + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    + b"\x00\xff\xff\x01\x05\x00\x00\x00\x01"
    + b"\xfe" * 300,
    _PREFACE + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
    b"\xff" * 512,
)


class Crowd:
    """`per_s`: how many a second of the four kinds together; `stay_s`: how long a slow one stays."""

    def __init__(self, http: str, grpc_url: str, *, per_s: float, stay_s: float, seed: int) -> None:
        self._http, self._grpc = urlsplit(http), urlsplit(grpc_url)
        self._urls = http, grpc_url
        self._per_s, self._stay_s = per_s, stay_s
        self._random = random.Random(seed)
        self.done: Counter[str] = Counter()
        self._counting = threading.Lock()

    def run(self, seconds: float) -> None:
        kinds: list[tuple[str, Callable[[random.Random], None]]] = [
            ("slow", self._slow),
            ("cancelling", self._cancelling),
            ("lying", self._lying),
        ]
        until = time.monotonic() + seconds
        threads = [threading.Thread(target=self._crashing, args=(until,))]
        threads[0].start()
        while time.monotonic() < until - self._stay_s - 1:
            name, act = self._random.choice(kinds)
            source = random.Random(self._random.getrandbits(64))
            thread = threading.Thread(target=self._counted, args=(name, act, source))
            thread.start()
            threads = [*(thread for thread in threads if thread.is_alive()), thread]
            time.sleep(self._random.expovariate(self._per_s))
        for thread in threads:
            thread.join()

    def _counted(
        self, name: str, act: Callable[[random.Random], None], source: random.Random
    ) -> None:
        try:
            act(source)
        except OSError:  # the server closed it: its right
            name += ", closed by the server"
        with self._counting:
            self.done[name] += 1

    def _connected(self, door: str) -> socket.socket:
        parts = self._http if door == "http" else self._grpc
        return socket.create_connection((parts.hostname, parts.port), timeout=30)

    def _slow(self, source: random.Random) -> None:
        """Reads a little of a long stream now and then, and leaves."""
        until = time.monotonic() + source.uniform(0.2, 1) * self._stay_s
        if source.random() < 0.5:
            with self._connected("http") as connection:
                connection.sendall(f"GET {_STREAM} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                while time.monotonic() < until and connection.recv(2**12):
                    time.sleep(0.05)
            return
        with grpc.insecure_channel(self._grpc.netloc) as channel:
            call = self._stream(channel)
            try:
                while time.monotonic() < until:
                    next(call)
                    time.sleep(0.2)
            except grpc.RpcError:
                return
            finally:
                call.cancel()

    def _cancelling(self, source: random.Random) -> None:
        """Asks, and leaves before or behind the first bytes."""
        if source.random() < 0.5:
            for _ in range(8):
                with self._connected("http") as connection:
                    connection.sendall(f"GET {_STREAM} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                    if source.random() < 0.5:
                        connection.recv(source.randrange(1, 2**16))
                    if source.random() < 0.5:
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            return
        with grpc.insecure_channel(self._grpc.netloc) as channel:
            for _ in range(8):
                call = self._stream(channel)
                try:
                    if source.random() < 0.5:
                        next(call)
                except grpc.RpcError:
                    continue
                finally:
                    call.cancel()

    def _lying(self, source: random.Random) -> None:
        """Says what is not so, waits a little, and leaves."""
        door = source.choice(("http", "grpc"))
        with self._connected(door) as connection:
            connection.sendall(source.choice(_LIES if door == "http" else _GARBAGE))
            connection.settimeout(source.uniform(0.05, self._stay_s))
            try:
                while connection.recv(2**16):
                    pass
            except TimeoutError:
                return

    def _crashing(self, until: float) -> None:
        """A process that takes streams through both doors, and is killed in the middle."""
        while time.monotonic() < until - self._stay_s:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.soak.crashing", *self._urls], stdout=subprocess.PIPE
            )
            assert process.stdout is not None
            with process, process.stdout:
                if process.stdout.readline():
                    time.sleep(self._random.uniform(0, 0.3))
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    with self._counting:
                        self.done["crashing"] += 1
            time.sleep(max(0.0, min(self._stay_s, until - time.monotonic())))

    def _stream(self, channel: grpc.Channel) -> Any:
        request = pb.StreamBatchesRequest(
            spec=pb.Spec(sequence_length=4096), seed=1, samples=32768, batch_size=32
        )
        return metalm_pb2_grpc.MetaLMServiceStub(channel).StreamBatches(request, timeout=60)


def main(seconds: float, after_s: float, **arguments: Any) -> None:
    crowd = Crowd(**arguments)
    starting_together()
    time.sleep(after_s)
    crowd.run(seconds)
    print(json.dumps(crowd.done))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
