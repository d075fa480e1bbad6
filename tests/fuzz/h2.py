"""The frames of HTTP/2 (RFC 9113), and of gRPC's messages in them, made by hand."""

from __future__ import annotations

import select
import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY = range(8)
WINDOW_UPDATE, CONTINUATION = 8, 9
ACK = END_STREAM = 1
END_HEADERS = 4
PADDED = 8
_QUESTION = b"is there"
METHOD = "/metalm.v1.MetaLMService/"


def frame(
    kind: int, flags: int, stream: int, payload: bytes = b"", length: int | None = None
) -> bytes:
    """A frame; `length`: what it says its length is, where that is not so."""
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A header field that goes into no table (RFC 7541, 6.2.2), without Huffman's code."""
    return b"\x00" + string(name) + string(value)


def string(data: bytes) -> bytes:
    if len(data) < 127:
        return bytes([len(data)]) + data
    rest, out = len(data) - 127, bytearray([127])
    while rest > 127:
        out.append(rest & 127 | 128)
        rest >>= 7
    return bytes([*out, rest]) + data


def headers(method: str = "Describe", *more: tuple[bytes, bytes]) -> bytes:
    """The header block of a call."""
    fields = [
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", (METHOD + method).encode()),
        (b":authority", b"fuzz"), (b"content-type", b"application/grpc"), (b"te", b"trailers"), *more,
    ]  # fmt: skip
    return b"".join(literal(name, value) for name, value in fields)


def message(data: bytes, compressed: int = 0, length: int | None = None) -> bytes:
    """A message as gRPC frames it; `length`: what it says its length is."""
    return struct.pack(">BI", compressed, len(data) if length is None else length) + data


def call(stream: int, data: bytes = b"", method: str = "Describe") -> bytes:
    """A whole call."""
    return frame(HEADERS, END_HEADERS, stream, headers(method)) + frame(
        DATA, END_STREAM, stream, message(data)
    )


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


class Peer:
    """An end of a connection that answers what must be answered, whatever else it sends: a server
    waits for the acknowledgement of its settings, and of its pings when it has doubts.

    `patience_s`: how long it waits for a server that reads no more or says nothing. `ended`: the
    streams that the server has ended.
    """

    def __init__(self, connection: socket.socket, patience_s: float) -> None:
        connection.settimeout(patience_s)
        self._connection = connection
        self._read = b""
        self._greeted = self._answered = False
        self.ended: set[int] = set()

    def send(self, data: bytes) -> None:
        """Raises TimeoutError where the server reads no more, OSError where it has closed."""
        self._connection.sendall(data)
        if select.select([self._connection], [], [], 0)[0]:
            self.wait()

    def greet(self) -> None:
        """Begins the connection, and acknowledges the server's settings."""
        self.send(PREFACE + settings())
        while not self._greeted:
            self.wait()

    def ask(self) -> None:
        """Returns when the server has read all and says so. Raises like `send`."""
        self.send(frame(PING, 0, 0, _QUESTION))
        while not self._answered:
            self.wait()

    def wait(self) -> None:
        """Takes what comes next. Raises TimeoutError if nothing does, OSError at the end."""
        data = self._connection.recv(2**16)
        if not data:
            raise ConnectionResetError("the server has closed the connection")
        self._read += data
        while len(self._read) >= 9:
            size = 9 + int.from_bytes(self._read[:3], "big")
            if len(self._read) < size:
                break
            kind, flags, payload = self._read[3], self._read[4], self._read[9:size]
            stream = int.from_bytes(self._read[5:9], "big")
            self._read = self._read[size:]
            if kind in (DATA, HEADERS) and flags & END_STREAM:
                self.ended.add(stream)
            elif kind == PING and flags & ACK:
                self._answered = self._answered or payload == _QUESTION
            elif kind in (SETTINGS, PING) and not flags & ACK:
                answer = payload if kind == PING else b""
                self._connection.sendall(frame(kind, ACK, 0, answer))
                self._greeted = True
