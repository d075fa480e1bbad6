"""The HTTP client against servers that are not what they should be."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from metalm import (
    CorruptBatch,
    DeadlineExceeded,
    InternalError,
    MetaLMClient,
    Overloaded,
    Spec,
    Unavailable,
)
from metalm.transports.base import check_batch
from metalm.transports.http import HttpTransport
from metalm_proto import protobuf, wire
from metalm_proto.spec import BatchRequest

ARGUMENTS: dict[str, Any] = {"spec": Spec(L=50), "seed": 1, "stop": 6, "batch_size": 2}
REQUEST = BatchRequest(spec=Spec(L=50), seed=1, stop=6, batch_size=2)


def true_body() -> bytes:
    batches = MetaLMClient().batches(**ARGUMENTS)
    return b"".join(b"".join(wire.length_prefixed(wire.encode_batch(b))) for b in batches)


@contextmanager
def answering(raw: bytes, *, hang: bool = False) -> Iterator[str]:
    """A server on a real socket that answers every connection with these bytes."""
    done = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(raw)
            if hang:
                done.wait(30)

    try:
        with serving(Handler) as url:
            yield url
    finally:
        done.set()


@contextmanager
def serving(handler: type[socketserver.BaseRequestHandler]) -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def response(
    body: bytes, status: str = "200 OK", media_type: str = wire.STREAM_MEDIA_TYPE
) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def read_all(url: str, timeout_s: float = 10) -> list[int]:
    transport = HttpTransport(url, timeout_s=timeout_s)
    try:
        found = []
        stream = transport.batches(REQUEST)
        for (first, size), batch in zip(REQUEST.ranges(), stream, strict=True):
            check_batch(batch, REQUEST, first, size)
            found.append(batch.digest)
        return found
    finally:
        transport.close()


def test_the_true_answer_is_read() -> None:
    with answering(response(true_body())) as url:
        assert len(read_all(url)) == 3


@pytest.mark.parametrize("share", [0.0, 0.1, 0.34, 0.5, 0.9, 0.999])
def test_a_cut_anywhere_is_unavailable(share: float) -> None:
    whole = response(true_body())
    cut = whole[: whole.index(b"\r\n\r\n") + 4 + int(share * len(true_body()))]
    with answering(cut) as url, pytest.raises(Unavailable):
        read_all(url)


@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request", "503 Service Unavailable"])
def test_a_cut_within_the_head_is_an_error_that_heals(status: str) -> None:
    """Wherever it is: to the parser of the head its end is an end like any other."""
    whole = response(
        true_body(),
        status,
        "application/problem+json" if status[0] != "2" else wire.STREAM_MEDIA_TYPE,
    )
    for length in range(whole.index(b"\r\n\r\n") + 4):
        with answering(whole[:length]) as url, pytest.raises((Unavailable, CorruptBatch)):
            read_all(url)


def test_a_chunked_answer_is_read_and_its_cut_noticed() -> None:
    body = true_body()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {wire.STREAM_MEDIA_TYPE}\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(body[i : i + 77]), body[i : i + 77]) for i in range(0, len(body), 77)
    )
    with answering(head.encode() + chunks + b"0\r\n\r\n") as url:
        assert len(read_all(url)) == 3
    with answering(head.encode() + chunks[:-40]) as url, pytest.raises(Unavailable):
        read_all(url)


def test_silence_ends_with_the_deadline() -> None:
    whole = response(true_body())
    for raw in (b"", whole[: len(whole) // 2]):
        with answering(raw, hang=True) as url, pytest.raises(DeadlineExceeded):
            read_all(url, timeout_s=0.3)


def test_a_flipped_bit_anywhere_is_found() -> None:
    """Every position of a short answer, each through a real socket.

    A flip that hides a field whose value is the default changes nothing: then the batches must be
    the true ones.
    """
    body = true_body()
    true = [batch.digest for batch in MetaLMClient().batches(**ARGUMENTS)]
    current = b""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline():
                while self.rfile.readline().strip():
                    pass
                self.wfile.write(response(current))

    found = 0
    with serving(Handler) as url:
        for position in range(len(body)):
            altered = bytearray(body)
            altered[position] ^= 1 << position % 8
            current = bytes(altered)
            try:
                digests = read_all(url)
            except (CorruptBatch, Unavailable):
                found += 1
            else:
                assert digests == true, position
    assert found > 0.95 * len(body)


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (response(b"<html>gateway</html>", "502 Bad Gateway", "text/html"), Unavailable),
        (response(b"slow down", "429 Too Many Requests", "text/plain"), Unavailable),
        (response(b"<html>hello</html>", "200 OK", "text/html"), InternalError),
        (response(b"no", "404 Not Found", "text/plain"), InternalError),
        (response(b"[1]", "400 Bad Request", "application/problem+json"), InternalError),
        (response(true_body() + true_body()), CorruptBatch),
        (response(b"\xff" * 100), CorruptBatch),
        (response(b"\xff\xff\xff\xff\x7f" + b"0" * 100), CorruptBatch),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Unavailable),
        (b"", Unavailable),
    ],
)
def test_what_is_no_service_is_told(raw: bytes, error: type[Exception]) -> None:
    with answering(raw) as url, pytest.raises(error):
        read_all(url)


def problem(**more: object) -> bytes:
    told = {"reason": "OVERLOADED", "detail": "busy", **more}
    return response(json.dumps(told).encode(), "503 No", "application/problem+json")


@pytest.mark.parametrize(
    "wait", ["5", float("nan"), float("inf"), -1, 10**400, [], {}, True, None], ids=str
)
def test_a_time_to_wait_that_is_none_is_left_out(wait: object) -> None:
    with answering(problem(retry_after_s=wait)) as url:
        with pytest.raises(Overloaded, match="busy") as caught:
            read_all(url)
    assert caught.value.retry_after_s in (None, 86400)
    assert (caught.value.retry_after_s is None) == (wait != 10**400)


def test_json_that_is_nested_deeply_is_no_answer_of_a_service() -> None:
    deep = b"[" * 10**5
    with answering(response(deep, "503 No", "application/problem+json")) as url:
        with pytest.raises(Unavailable, match="503"):
            read_all(url)
    with answering(response(deep, media_type="application/json")) as url:
        transport = HttpTransport(url, timeout_s=10)
        with pytest.raises(InternalError, match="does not answer like"):
            transport.describe(None)
        transport.close()


def test_what_a_server_says_is_one_line_that_any_terminal_can_be_given() -> None:
    said = "\x1b[2Jall is well\n\u202e" + "x" * 10**4
    with answering(problem(detail=said)) as url, pytest.raises(Overloaded) as caught:
        read_all(url)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 1000
    with answering(b"\x1b[2J\n") as url, pytest.raises(Unavailable) as cut:
        read_all(url)
    assert str(cut.value).isprintable()


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("longer", [10_000, 2**30])
def test_a_length_that_is_damaged_is_no_cut(longer: int, chunked: bool) -> None:
    """A cache may have kept it: as a batch that is damaged it is asked for past that."""
    body = true_body()
    length, begin = protobuf.read_varint(body, 0)
    (prefix, *_) = wire.length_prefixed([bytes(length + longer)]) if longer < 2**20 else (b"",)
    prefix = prefix or b"\xff\xff\xff\xff\x03"
    damaged = bytes(prefix) + body[begin:]
    raw = response(damaged)
    if chunked:
        head = (
            f"HTTP/1.1 200 OK\r\nContent-Type: {wire.STREAM_MEDIA_TYPE}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n"
        )
        raw = head.encode() + b"%x\r\n%s\r\n0\r\n\r\n" % (len(damaged), damaged)
    with answering(raw) as url, pytest.raises(CorruptBatch, match="announced"):
        read_all(url)


def test_connections_are_used_again() -> None:
    connections = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            connections.append(self.client_address)
            while self.rfile.readline():
                while self.rfile.readline().strip():
                    pass
                self.wfile.write(response(true_body()))

    with serving(Handler) as url:
        transport = HttpTransport(url, timeout_s=10)
        for _ in range(5):
            assert sum(1 for _ in transport.batches(REQUEST)) == 3
        transport.close()
    assert len(connections) == 1


def test_a_batch_of_another_size_is_not_the_one_that_was_asked_for() -> None:
    """Its own digest is right; only its number of samples is not."""
    whole = MetaLMClient().batch(spec=Spec(L=50), seed=1, batch_size=6)
    body = b"".join(wire.length_prefixed(wire.encode_batch(whole)))
    with answering(response(body)) as url, pytest.raises(CorruptBatch, match="2 samples from 0"):
        read_all(url)
