"""The gRPC door in a process of its own.

A process that was forked after gRPC had been used cannot use it: the library's threads are gone,
and what they waited on is shared with the parent, which a call here can crash. So it starts a
fresh interpreter, which has gRPC to itself, and talks to that over a socket of this machine.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import suppress
from functools import lru_cache
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

from metalm.transports.base import BatchStream
from metalm_proto import wire
from metalm_proto.batch import Batch
from metalm_proto.description import Description
from metalm_proto.errors import MetaLMError, Unavailable, Unreachable
from metalm_proto.spec import BatchRequest, Spec

_BATCH, _END, _ERROR = "batch", "end", "error"
_KEY_BYTES = 32


class RelayTransport:
    """`door`: the arguments of `GrpcTransport`."""

    def __init__(self, **door: Any) -> None:
        self._door = door
        self._url = f"grpc{'s' if door['secure'] else ''}://{door['target']}"
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._key = b""
        self._place = ""

    def batches(self, request: BatchRequest) -> BatchStream:
        call = _Call()
        return BatchStream(self._batches(request, call), call.interrupt)

    def _batches(self, request: BatchRequest, call: _Call) -> Generator[Batch, None, None]:
        with self._asked("batches", request) as connection:
            call.begin(connection)
            try:
                while _answer(connection) == _BATCH:
                    yield wire.decode_batch(connection.recv_bytes())
            except (EOFError, OSError) as error:
                raise Unavailable(f"{self._url}: the relay ended") from error

    def describe(self, spec: Spec | None, timeout_s: float | None = None) -> Description:
        with self._asked("describe", spec, timeout_s) as connection:
            try:
                _answer(connection)
                description: Description = connection.recv()
            except (EOFError, OSError) as error:
                raise Unavailable(f"{self._url}: the relay ended") from error
        return description

    def close(self) -> None:
        with self._lock:
            if self._process is not None:
                assert self._process.stdin is not None
                self._process.stdin.close()
                self._process.wait()
                self._process = None

    def _asked(self, *question: Any) -> Connection[Any, Any]:
        """A connection to the relay, which has been asked. Raises Unreachable."""
        try:
            self._start()
            connection = Client(self._place, "AF_UNIX", self._key)
            connection.send((self._door, *question))
        except (EOFError, OSError) as error:
            raise Unreachable(f"{self._url}: no relay: {error}") from error
        return connection

    def _start(self) -> None:
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                return
            self._key = secrets.token_bytes(_KEY_BYTES)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "metalm.transports.relay"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(self._key)
            self._process.stdin.flush()
            with self._process.stdout as said:
                self._place = said.readline().decode().strip()
            if not self._place:
                raise OSError("it did not start")


class _Call:
    """A connection whose reading another thread can break off."""

    def __init__(self) -> None:
        self._connection: Connection[Any, Any] | None = None
        self._interrupted = False

    def begin(self, connection: Connection[Any, Any]) -> None:
        self._connection = connection
        if self._interrupted:
            raise Unavailable("the request was closed")

    def interrupt(self) -> None:
        self._interrupted = True
        if self._connection is not None:
            # Closed already: nobody waits.
            with suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as end:
                end.shutdown(socket.SHUT_RDWR)


def _answer(connection: Connection[Any, Any]) -> str:
    """What comes next. Raises the MetaLMError that was sent."""
    kind: str = connection.recv()
    if kind == _ERROR:
        error: MetaLMError = connection.recv()
        raise error
    return kind


def _serve(connection: Connection[Any, Any]) -> None:
    # An end that is closed there is an error here, and the end of the request.
    with suppress(EOFError, OSError), connection:
        door, question, *arguments = connection.recv()
        transport = _transport(**door)
        try:
            if question == "describe":
                description = transport.describe(*arguments)
                connection.send(_END)
                connection.send(description)
                return
            with transport.batches(*arguments) as batches:
                for batch in batches:
                    connection.send(_BATCH)
                    connection.send_bytes(b"".join(wire.encode_batch(batch)))
            connection.send(_END)
        except MetaLMError as error:
            connection.send(_ERROR)
            connection.send(error)


@lru_cache(maxsize=8)
def _transport(**door: Any) -> Any:
    from metalm.transports.grpc import GrpcTransport

    return GrpcTransport(**door)


def _run() -> None:
    """Serves until the end of standard input, which is that of whoever started it."""
    key = sys.stdin.buffer.read(_KEY_BYTES)
    with Listener(family="AF_UNIX", authkey=key) as listener:
        print(listener.address, flush=True)
        threading.Thread(target=_accept, args=(listener,), daemon=True).start()
        sys.stdin.buffer.read()
    os._exit(0)  # threads of gRPC may still be at work


def _accept(listener: Listener) -> None:
    while True:
        with suppress(OSError):
            connection = listener.accept()
            threading.Thread(target=_serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    _run()
