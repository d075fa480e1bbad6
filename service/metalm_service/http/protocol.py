"""What a connection may do before it is a request, and after it has asked for one.

uvicorn has no time-out on a request's arrival, no bound on its head where httptools parses it, none
on connections, and waits for ever for a reader.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import socket
import struct
import sys
import termios
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

BACKLOG = 64
"""Connections that may wait: asyncio accepts as many at once, before any of them is counted."""
MAX_HEAD_BYTES = 2**16
"""Of a request line and its headers."""
_MAX_PIPELINED = 16
_LOOK_EVERY_S = 0.5

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """`max_connections`: at one time. `request_timeout_s`: for a request to arrive.
    `stall_timeout_s`: in which a reader must take something."""

    max_connections: int
    request_timeout_s: float
    stall_timeout_s: float


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol within `limits`. Requests have no body here: one is refused."""

    def __init__(self, *args: Any, limits: ConnectionLimits, **others: Any) -> None:
        super().__init__(*args, **others)
        self._limits = limits
        self._head_bytes = 0
        # None: no request is arriving.
        self._arriving_since: float | None = self.loop.time()
        self._progress_at = self.loop.time()
        self._unsent_before = 0

    # As uvicorn's own: of transports in general, a connection has one that is read and written.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "the server has as many as it takes")

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_head()
        elif self.cycle is None or self.cycle.response_complete:
            # Something has come, though it may be empty lines, which begin no request.
            self._arriving_since = self._arriving_since or self.loop.time()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._arriving_since = self._arriving_since or self.loop.time()

    def on_headers_complete(self) -> None:
        if self.transport.is_closing():
            return
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > MAX_HEAD_BYTES:
            self._refuse_head()
            return
        names = dict(self.headers)
        if names.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in names:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "requests have no body here")
            return
        if self.parser.get_http_version() == "1.1" and (
            sum(name == b"host" for name, _ in self.headers) != 1
        ):
            self._refuse(HTTPStatus.BAD_REQUEST, "a request has one Host (RFC 9112, 3.2)")
            return
        self._arriving_since, self._head_bytes = None, 0
        super().on_headers_complete()
        if len(self.pipeline) > _MAX_PIPELINED:
            self.transport.abort()

    def on_body(self, body: bytes) -> None:
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.transport.is_closing():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._head_bytes = 0

    def resume_writing(self) -> None:
        super().resume_writing()
        self._progress_at = self.loop.time()

    def look(self) -> None:
        """Ends the connection if it has taken too long."""
        now, limits = self.loop.time(), self._limits
        unsent_bytes = self._unsent()
        if not unsent_bytes or unsent_bytes < self._unsent_before:
            self._progress_at = now
        self._unsent_before = unsent_bytes
        if now - self._progress_at > limits.stall_timeout_s:
            _log.warning("a reader took nothing for %g s", limits.stall_timeout_s)
            self._reset()
        elif (
            self._arriving_since is not None
            and now - self._arriving_since > limits.request_timeout_s
            and not self.transport.is_closing()
        ):
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "the request took too long to arrive")

    def send_400_response(self, msg: str) -> None:
        self._refuse(HTTPStatus.BAD_REQUEST, msg)

    def _unsent(self) -> int:
        """Bytes that the reader has not acknowledged: here, and in the system's buffer."""
        connection = self.transport.get_extra_info("socket")
        if connection is None or connection.fileno() < 0:
            return 0
        queued = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4))
        return self.transport.get_write_buffer_size() + int.from_bytes(queued, sys.byteorder)

    def _reset(self) -> None:
        """Drops what the system still holds for the reader as well, which may be megabytes."""
        connection = self.transport.get_extra_info("socket")
        if connection is not None and connection.fileno() >= 0:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _refuse_head(self) -> None:
        self._refuse(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"a request's line and headers are at most {MAX_HEAD_BYTES} bytes",
        )

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Answers without the application, and closes the connection."""
        if self.cycle is not None and not self.cycle.response_complete:
            # In the middle of another answer there is no room for this one.
            self.transport.abort()
            return
        body = (detail + "\n").encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            "content-type: text/plain; charset=utf-8\r\n"
            f"content-length: {len(body)}\r\n"
            "cache-control: no-store\r\n"
            "connection: close\r\n"
        )
        if status is HTTPStatus.SERVICE_UNAVAILABLE:
            head += "retry-after: 1\r\n"
        always = b"".join(
            name + b": " + value + b"\r\n" for name, value in self.server_state.default_headers
        )
        self.transport.write(head.encode() + always + b"\r\n" + body)
        self.transport.close()


async def watch(connections: set[Any]) -> None:
    """Looks at all connections again and again, until it is cancelled."""
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        for connection in list(connections):
            connection.look()
