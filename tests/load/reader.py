"""Readers in a process of their own that cost next to nothing: what they get they throw away.

What they get is what many trainers would get; that it is right, others test.
"""

from __future__ import annotations

import json
import random
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from metalm_proto.v1 import metalm_pb2 as pb

_PIECE = 2**18
_TOO_MUCH = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
"""The service's own words, and gRPC's, which has no thread left to let it speak."""


@dataclass
class Tally:
    """What one client got: bytes and whole answers, refusals and how long each took to come, errors,
    seconds to the head of each answer that was given. All streams begin at one moment: `burst` has
    the refusals of what they asked first, `refusals` the others."""

    answered_bytes: int = 0
    answers: int = 0
    burst: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    without_hint: int = 0
    """Refusals that did not say when to come again."""
    firsts: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Reader:
    """One stream of requests after another, from an address of its own."""

    def __init__(self, host: str, port: int, source: str, path: str, tally: Tally) -> None:
        self._place, self._source = (host, port), source
        self._request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        self._tally = tally
        self._refused = tally.burst
        self._connection: socket.socket | None = None
        self._buffer = bytearray(_PIECE)

    def run(self, until: float) -> None:
        while time.time() < until:
            try:
                self._ask(until)
            except OSError as error:
                self._tally.errors.append(repr(error))
                self._close()
                time.sleep(0.05)
            self._refused = self._tally.refusals
        self._close()

    def _ask(self, until: float) -> None:
        if self._connection is None:
            self._connection = socket.create_connection(
                self._place, 30, source_address=(self._source, 0)
            )
        begun_at = time.perf_counter()
        self._connection.sendall(self._request)
        status, fields, rest = self._head()
        seconds = time.perf_counter() - begun_at
        left = int(fields["content-length"]) - len(rest)
        if status == 503:
            self._refused.append(seconds)
            self._tally.without_hint += "retry-after" not in fields
            self._skip(left, until)
            # As a client does that keeps to what it is told, and spreads out.
            time.sleep(float(fields.get("retry-after", 1)) * random.uniform(0.5, 1.5))
        elif status == 200:
            self._tally.firsts.append(seconds)
            self._tally.answered_bytes += len(rest)
            if self._skip(left, until):
                self._tally.answers += 1
        else:
            self._tally.errors.append(f"status {status}")
            self._close()

    def _head(self) -> tuple[int, dict[str, str], bytes]:
        assert self._connection is not None
        data = b""
        while b"\r\n\r\n" not in data:
            piece = self._connection.recv(_PIECE)
            if not piece:
                raise ConnectionError("closed before the head of an answer")
            data += piece
        head, _, rest = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:])
        if "content-length" not in fields:
            raise ConnectionError(f"no length: {lines[0]}")
        return int(lines[0].split()[1]), fields, rest

    def _skip(self, left: int, until: float) -> bool:
        """Reads the rest of an answer; False if time is up before."""
        assert self._connection is not None
        while left > 0:
            size = self._connection.recv_into(self._buffer)
            if not size:
                raise ConnectionError("closed in the middle of an answer")
            left -= size
            self._tally.answered_bytes += size
            if time.time() > until:
                self._close()
                return False
        return True

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class GrpcReader:
    """The same over gRPC, as the client with `token`."""

    def __init__(self, target: str, token: str, samples: int, tally: Tally) -> None:
        self._channel = grpc.insecure_channel(
            target,
            [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)],
        )
        # What a connection takes is no part of the load.
        grpc.channel_ready_future(self._channel).result(30)
        # Bytes, which nobody decodes.
        self._stream: Any = self._channel.unary_stream(
            "/metalm.v1.MetaLMService/StreamBatches", pb.StreamBatchesRequest.SerializeToString
        )
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._request = pb.StreamBatchesRequest(seed=1, samples=samples, batch_size=32)
        self._tally = tally

    def run(self, until: float) -> None:
        refused = self._tally.burst
        while time.time() < until:
            begun_at = time.perf_counter()
            call = self._stream(self._request, metadata=self._metadata)
            try:
                for message in call:
                    self._tally.answered_bytes += len(message)
                    if time.time() > until:
                        call.cancel()
                        break
                else:
                    self._tally.answers += 1
            except grpc.RpcError as error:
                seconds = time.perf_counter() - begun_at
                if error.code() not in _TOO_MUCH:
                    self._tally.errors.append(repr(error))
                else:
                    refused.append(seconds)
                wait_s = retry_after_s(error)
                self._tally.without_hint += wait_s is None
                time.sleep((wait_s or 1) * random.uniform(0.5, 1.5))
            refused = self._tally.refusals
        self._channel.close()


def retry_after_s(error: grpc.RpcError) -> float | None:
    """What the service says in a RetryInfo (google.rpc)."""
    status = rpc_status.from_call(error)
    info = error_details_pb2.RetryInfo()
    for detail in () if status is None else status.details:
        if detail.Unpack(info):
            return float(info.retry_delay.ToNanoseconds() / 1e9)
    return None


def readers(
    host: str, port: int, client: dict[str, Any], tally: Tally
) -> list[Reader | GrpcReader]:
    """A client's; it has streams, and source and path over HTTP, token and samples over gRPC."""
    return [
        GrpcReader(f"{host}:{port}", client["token"], client["samples"], tally)
        if "token" in client
        else Reader(host, port, client["source"], client["path"], tally)
        for _ in range(client["streams"])
    ]


def main() -> None:
    """Reads what it is to be, says that it is ready, reads when to begin and until when to go on,
    and writes what it got meanwhile."""
    tally = Tally()
    made = readers(**json.loads(sys.stdin.readline()), tally=tally)
    print("ready", flush=True)
    times = json.loads(sys.stdin.readline())
    threads = [threading.Thread(target=reader.run, args=(times["until"],)) for reader in made]
    time.sleep(max(0.0, times["begin"] - time.time()))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(asdict(tally)))


if __name__ == "__main__":
    main()
