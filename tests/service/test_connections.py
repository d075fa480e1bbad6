"""Connections that send too little, too much or nonsense, and readers that do not read."""

from __future__ import annotations

import os
import re
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import urllib3

from metalm_proto import messages
from metalm_proto.spec import BatchRequest, Spec
from metalm_proto.v1 import metalm_pb2_grpc
from tests.door import opened
from tests.forked import running
from tests.scraped import scraped_when
from tests.service_process import Service

LIMITS = ("--request-timeout-s", "1", "--stall-timeout-s", "1", "--max-connections", "50")
GET = b"GET /sample?V=4&n=2&L=12&seed=0 HTTP/1.1\r\nHost: a\r\n"


@pytest.fixture(scope="module")
def strict() -> Iterator[Service]:
    with running(*LIMITS) as service:
        yield service


def connected(service: Service) -> socket.socket:
    host, port = service.http.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    connection.settimeout(30)
    return connection


def answer_to(service: Service, *pieces: bytes) -> bytes:
    """All that comes back until the service closes the connection."""
    with connected(service) as connection:
        for piece in pieces:
            connection.sendall(piece)
        return rest_of(connection)


def rest_of(connection: socket.socket) -> bytes:
    found = b""
    try:
        while piece := connection.recv(2**16):
            found += piece
    except ConnectionError:
        pass
    return found


def assert_well(service: Service) -> None:
    assert urllib3.request("GET", f"{service.http}/sample?L=5", retries=False).status == 200
    assert "Traceback" not in "".join(service.lines)


def test_a_request_has_to_arrive_in_time(strict: Service) -> None:
    with ExitStack() as stack:
        waiting = {}
        for begun in (b"", b"GET /sam", GET, GET + b"X-Y: z"):
            waiting[begun] = stack.enter_context(connected(strict))
            waiting[begun].sendall(begun)
        for begun, connection in waiting.items():
            answer = rest_of(connection)
            assert answer.startswith(b"HTTP/1.1 408 "), begun
            assert b"too long to arrive" in answer, begun
    assert_well(strict)


def test_a_request_that_trickles_in_is_ended(strict: Service) -> None:
    with connected(strict) as connection:
        begun_at = time.monotonic()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while time.monotonic() < begun_at + 60:
                connection.sendall(b"x")
                time.sleep(0.05)
        assert time.monotonic() - begun_at < 30


def test_so_is_the_second_one_of_a_connection(strict: Service) -> None:
    with connected(strict) as connection:
        connection.sendall(GET + b"\r\n")
        assert connection.recv(2**16).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"GET /")
        assert b"HTTP/1.1 408 " in rest_of(connection)


def test_empty_lines_behind_an_answer_keep_no_connection_open(strict: Service) -> None:
    with connected(strict) as connection:
        connection.sendall(GET + b"\r\n")
        answer = b""
        while not answer.endswith(b"}\n"):
            answer += connection.recv(2**16)
        connection.sendall(b"\r\n")
        rest_of(connection)  # which ends when the service has closed it


def test_nobody_says_who_he_is_by_a_header(strict: Service) -> None:
    told = len(strict.lines)
    forged = {"X-Forwarded-For": "198.51.100.7", "X-Forwarded-Proto": "https"}
    assert urllib3.request("GET", f"{strict.http}/sample?L=5", headers=forged).status == 200
    eventually(lambda: assert_told(strict, told))
    assert "198.51.100.7" not in "".join(strict.lines)


def assert_told(service: Service, before: int) -> None:
    assert " call request_id=" in "".join(service.lines[before:])


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        ([GET + b"X: " + b"y" * 70_000], 431),
        ([GET + b"X: "] + [b"y" * 1000] * 100, 431),
        ([GET + b"".join(b"X%d: y\r\n" % number for number in range(9000)) + b"\r\n"], 431),
        ([b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n"], 431),
        ([GET + b"Content-Length: 5\r\n\r\nabcde"], 413),
        ([GET + b"Content-Length: 99999999999\r\n\r\n"], 413),
        ([GET + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"], 413),
        ([GET + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00"], 413),
        ([GET + b"Content-Length: -1\r\n\r\n"], 400),
        ([GET + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"], 400),
        ([b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"], 400),
        ([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], 400),
        ([b"GET / HTTP/9.9\r\n\r\n"], 400),
        ([b"\x00" * 100], 400),
        ([b"GET /healthz HTTP/1.1\r\n\r\n"], 400),
        ([GET + b"Host: b\r\n\r\n"], 400),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_no_request_of_ours_is_refused(
    strict: Service, pieces: list[bytes], status: int
) -> None:
    with connected(strict) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
        except ConnectionError:
            pass  # refused before it was all said
        answer = rest_of(connection)
    # A reset may overtake the answer, where there was more to be read.
    assert answer.startswith(b"HTTP/1.1 %d " % status) or (not answer and status == 431)
    assert_well(strict)


def test_requests_may_be_pipelined_within_reason(strict: Service) -> None:
    with connected(strict) as connection:
        connection.sendall((GET + b"\r\n") * 8)
        found = b""
        while found.count(b"HTTP/1.1 200 ") < 8:
            piece = connection.recv(2**16)
            assert piece
            found += piece
    assert len(answer_to(strict, (GET + b"\r\n") * 1000)) < 2**20
    assert_well(strict)


def test_more_connections_than_allowed_are_told_so(strict: Service) -> None:
    with ExitStack() as stack:
        for _ in range(3):
            held = [stack.enter_context(connected(strict)) for _ in range(60)]
            answers = [rest_of(connection) for connection in held]
            kinds = {answer[:12] for answer in answers}
            assert kinds == {b"HTTP/1.1 408", b"HTTP/1.1 503"}
    eventually(lambda: assert_well(strict))


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_silent_connections_do_not_use_up_the_files(door: str) -> None:
    """More of them than a service may open files, with the usual limit of 1024."""
    with running(*LIMITS[:4], "--max-connections", "512") as service, ExitStack() as stack:
        resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (1024, 1024))
        host, port = getattr(service, door).partition("://")[2].split(":")
        for number in range(1500):
            stack.enter_context(socket.create_connection((host, int(port)), 30))
            if number % 32 == 0:
                # Whoever comes while too many wait to be accepted tries again after a second: so
                # that none is, another that came behind them is waited for.
                assert answer_to(service, b"GET /healthz HTTP/1.0\r\n\r\n")
        eventually(partial(urllib3.request, "GET", f"{service.http}/sample?L=5"))
        with opened(service.grpc) as client:
            eventually(partial(client.sample, L=5))
        # gRPC counts no connections: it takes all that there are, until they time out.
        if door == "http":
            assert_well(service)


def read_nothing_over_http(service: Service) -> Callable[[], bool]:
    connection = connected(service)
    connection.sendall(
        b"GET /batches?L=16384&seed=1&stop=100000&batch_size=32 HTTP/1.1\r\nHost: a\r\n\r\n"
    )

    def ended() -> bool:
        with connection:
            return len(rest_of(connection)) < 100 * 2**20

    return ended


def read_nothing_over_grpc(service: Service) -> Callable[[], bool]:
    channel = grpc.insecure_channel(
        service.grpc.removeprefix("grpc://"), [("grpc.max_receive_message_length", -1)]
    )
    stub = metalm_pb2_grpc.MetaLMServiceStub(channel)
    request = BatchRequest(spec=Spec(L=16384), seed=1, stop=100_000, batch_size=32)
    call = stub.StreamBatches(messages.stream_request_to_message(request))
    next(call)

    def ended() -> bool:
        with pytest.raises(grpc.RpcError) as caught:
            for _ in call:
                pass
        channel.close()
        return bool(caught.value.code() == grpc.StatusCode.CANCELLED)

    return ended


@pytest.mark.parametrize("read_nothing", [read_nothing_over_http, read_nothing_over_grpc])
def test_a_reader_that_never_reads_loses_its_place(
    read_nothing: Callable[[Service], Callable[[], bool]],
) -> None:
    limits = ("--stall-timeout-s", "1", "--max-requests", "2", "--max-client-share", "1")
    with running(*limits) as service:
        ended = [read_nothing(service) for _ in range(2)]
        door = service.http if read_nothing is read_nothing_over_http else service.grpc
        # Both, before any of it is read: what is read is not stalled.
        scraped_when(
            service.http, lambda now: now("metalm_requests_total", method="StreamBatches") == 2
        )
        with opened(door) as client:
            eventually(lambda: client.sample(L=5))
        assert all(each() for each in ended)
        assert re.search("a reader took nothing for 1 s", "".join(service.lines))


def test_a_slow_reader_keeps_its_place() -> None:
    """Slower than the time-out for the whole, but never silent for so long."""
    # Of what is read the other side hears in steps: when a good part of a full buffer is free.
    with running("--stall-timeout-s", "4") as service, opened(service.http) as client:
        for _, batch in zip(range(11), client.batches(L=2**14, batch_size=16), strict=False):
            assert batch.size == 16
            time.sleep(0.4)


def eventually(call: Callable[[], Any], timeout_s: float = 60) -> Any:
    until = time.monotonic() + timeout_s
    while True:
        try:
            return call()
        except Exception:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def open_files(service: Service) -> int:
    return len(os.listdir(Path(f"/proc/{service.process.pid}/fd")))


def test_nothing_is_left_of_connections_that_ended(strict: Service) -> None:
    assert_well(strict)
    before = open_files(strict)
    for _ in range(100):
        with connected(strict) as connection:
            connection.sendall(GET)
    eventually(lambda: assert_no_more(strict, before))


def assert_no_more(service: Service, before: int) -> None:
    assert open_files(service) <= before + 4
