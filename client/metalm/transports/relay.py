"""The gRPC door in a process of its own.

A process that was forked after gRPC had been used cannot use it: the library's threads are gone,
and what they waited on is shared with the parent, which a call here can crash. So it starts a
fresh interpreter, which has gRPC to itself, and hands it one end of a pair of sockets for each
request. Nobody else can reach these, and both processes see at once when the other is gone.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from multiprocessing.connection import Connection
from typing import Any

from metalm.transports.base import BatchStream
from metalm.transports.grpc import GrpcTransport
from metalm_proto import wire
from metalm_proto.batch import Batch
from metalm_proto.description import Description
from metalm_proto.errors import DeadlineExceeded, MetaLMError, Unavailable, Unreachable
from metalm_proto.spec import BatchRequest, Spec

_BATCH, _END, _ERROR = "batch", "end", "error"
_REQUEST = b"r"
"""Goes with the socket of a request: one byte, one socket."""
_READY = b"y"
_START_S = 60.0
_END_S = 3.0
_SLACK_S = 5.0
"""The relay itself ends what takes longer than the caller's time; so much later it is not well."""


class RelayTransport:
    """`door`: the arguments of `GrpcTransport`."""

    def __init__(self, **door: Any) -> None:
        self._door = door
        self._url = f"grpc{'s' if door['secure'] else ''}://{door['target']}"
        self._timeout_s: float = door["timeout_s"]
        self._lock = threading.Lock()
        self._relay: _Relay | None = None

    def batches(self, request: BatchRequest) -> BatchStream:
        call = _Call()
        return BatchStream(self._batches(request, call), call.interrupt)

    def _batches(self, request: BatchRequest, call: _Call) -> Generator[Batch, None, None]:
        with self._asked(call, self._timeout_s, "batches", request) as connection:
            while _answer(connection) == _BATCH:
                yield wire.decode_batch(connection.recv_bytes())

    def describe(self, spec: Spec | None, timeout_s: float | None = None) -> Description:
        seconds = timeout_s or self._timeout_s
        with self._asked(_Call(), seconds, "describe", spec, timeout_s) as connection:
            _answer(connection)
            description: Description = connection.recv()
        return description

    def close(self) -> None:
        with self._lock:
            if self._relay is not None:
                self._relay.end()
                self._relay = None

    @contextmanager
    def _asked(self, call: _Call, seconds: float, *question: Any) -> Iterator[Connection[Any, Any]]:
        """A connection to the relay, which has been asked. It is an error when nothing is sent or
        taken there for some longer than `seconds`.

        Raises Unreachable, and DeadlineExceeded and Unavailable for what happens in its body.
        """
        here, there = socket.socketpair()
        with here, there:
            _limit(here, seconds + _SLACK_S)
            relay = self._handed(there)
            there.close()
            call.begin(here)
            with Connection(os.dup(here.fileno())) as connection:
                try:
                    connection.send((self._door, *question))
                    yield connection
                except BlockingIOError as error:  # the time of `_limit` is over
                    relay.kill()
                    message = f"{self._url}: no sign of the relay for {seconds + _SLACK_S:g} s"
                    raise DeadlineExceeded(message) from error
                except (EOFError, OSError) as error:
                    raise Unavailable(f"{self._url}: the relay ended") from error

    def _handed(self, end: socket.socket) -> _Relay:
        """The relay, which has got the socket, or will have when it looks. Raises Unreachable."""
        with self._lock:
            if self._relay is not None:
                with suppress(OSError):  # it has ended: then there is a new one
                    self._relay.hand(end)
                    return self._relay
                self._relay.end()
                self._relay = None
            try:
                self._relay = _Relay()
                self._relay.hand(end)
            except OSError as error:
                raise Unreachable(f"{self._url}: no relay: {error}") from error
            return self._relay


class _Relay:
    """The other process. Raises OSError if it does not start."""

    def __init__(self) -> None:
        self._killed = False
        self._control, there = socket.socketpair()
        try:
            with there:
                self._process = subprocess.Popen(
                    # What lies in the working directory is not to be taken for a module.
                    [sys.executable, "-P", "-m", "metalm.transports.relay"],
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(_module_paths())},
                    stdin=there.fileno(),
                    stdout=subprocess.DEVNULL,
                    # Ctrl-C is for the caller, who ends it.
                    start_new_session=True,
                )
        except BaseException:
            self._control.close()
            raise
        try:
            self._control.settimeout(_START_S)
            if self._control.recv(1) != _READY:
                raise OSError("it did not start")
            self._control.settimeout(_SLACK_S)
        except BaseException:
            self.kill()
            self.end()
            raise

    def hand(self, end: socket.socket) -> None:
        """Raises OSError if it is gone, or takes nothing any more."""
        if self._killed:
            raise BrokenPipeError
        try:
            socket.send_fds(self._control, [_REQUEST], [end.fileno()])
        except OSError:
            self.kill()
            raise

    def kill(self) -> None:
        self._killed = True
        self._process.kill()

    def end(self) -> None:
        self._control.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _module_paths() -> list[str]:
    """Where this process finds modules; the working directory last, where that is one of them."""
    found = [path for path in sys.path if path]
    return found if len(found) == len(sys.path) else [*found, os.getcwd()]


def _limit(end: socket.socket, seconds: float) -> None:
    """Lets each reading and writing fail, with BlockingIOError, that goes on for so long."""
    limit = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        end.setsockopt(socket.SOL_SOCKET, option, limit)


class _Call:
    """A request whose reading another thread can break off."""

    def __init__(self) -> None:
        self._end: socket.socket | None = None
        self._interrupted = False

    def begin(self, end: socket.socket) -> None:
        self._end = end
        if self._interrupted:
            raise Unavailable("the request was closed")

    def interrupt(self) -> None:
        self._interrupted = True
        if self._end is not None:
            # Closed already: nobody waits.
            with suppress(OSError):
                self._end.shutdown(socket.SHUT_RDWR)


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
        try:
            transport = _transport(**door)
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
def _transport(**door: Any) -> GrpcTransport:
    return GrpcTransport(**door)


def _run() -> None:
    """Serves until the socket at standard input ends, whose other end has whoever started it."""
    with socket.socket(fileno=os.dup(sys.stdin.fileno())) as control:
        control.sendall(_READY)
        while True:
            request, ends, _, _ = socket.recv_fds(control, 1, 1)
            if not request:
                os._exit(0)  # threads of gRPC may still be at work
            # None where this process has no room for another: the caller sees its end closed.
            for end in ends:
                _begin(Connection(end))


def _begin(connection: Connection[Any, Any]) -> None:
    try:
        threading.Thread(target=_serve, args=(connection,), daemon=True).start()
    except RuntimeError:  # no more threads: so much for this request, which is told by its end
        connection.close()


if __name__ == "__main__":
    _run()
