"""A line a call, with its id, whatever a caller sends."""

from __future__ import annotations

import io
import json
import logging
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
import urllib3
from grpc_health.v1 import health_pb2, health_pb2_grpc

from metalm_proto.v1 import metalm_pb2 as pb
from metalm_proto.v1 import metalm_pb2_grpc
from metalm_service import logs
from metalm_service.config import LogFormat, LogLevel
from tests.door import opened
from tests.forked import metalm, running
from tests.service_process import Service

DOORS = ["http", "grpc"]
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture(scope="module")
def json_service() -> Iterator[Service]:
    with running("--log-format", "json") as service:
        yield service


@pytest.fixture(scope="module")
def text_service() -> Iterator[Service]:
    with running() as service:
        yield service


def logged(service: Service, chosen: Callable[[str], bool]) -> str:
    """The first line for which something is so; within a minute."""
    until = time.monotonic() + 60
    while not (found := [line for line in list(service.lines) if chosen(line)]):
        assert time.monotonic() < until, service.lines[-10:]
        time.sleep(0.01)
    return found[0]


def call_of(service: Service, request_id: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(logged(service, lambda line: f'"{request_id}"' in line))
    return told


def ask_http(service: Service, path: str, **headers: str) -> urllib3.BaseHTTPResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return urllib3.request("GET", service.http + path, headers=named, retries=False, timeout=20)


def ask_grpc(
    service: Service, request: pb.SampleRequest, *told: tuple[str, str]
) -> tuple[grpc.StatusCode, dict[str, str | bytes]]:
    """The status, and the metadata that came with it."""
    with grpc.insecure_channel(service.grpc.removeprefix("grpc://")) as channel:
        stub = metalm_pb2_grpc.MetaLMServiceStub(channel)
        try:
            _, call = stub.Sample.with_call(request, metadata=told, timeout=20)
        except grpc.RpcError as error:
            call = error
        return call.code(), dict(call.trailing_metadata())


def test_a_call_is_one_object(json_service: Service) -> None:
    answer = ask_http(json_service, "/sample?L=12&seed=1", x_request_id="one-object")
    told = call_of(json_service, "one-object")
    assert TIME.fullmatch(told.pop("time"))
    assert 0 < told.pop("seconds") < 60
    assert told == {
        "level": "info",
        "logger": "metalm_service.calls",
        "message": "call",
        "request_id": "one-object",
        "door": "http",
        "method": "Sample",
        "client": "127.0.0.1",
        "outcome": "OK",
        "samples": 1,
        "bytes": len(answer.data),
    }


def test_both_doors_tell_the_same_of_a_refusal(json_service: Service) -> None:
    ask_http(json_service, "/sample?V=1", x_request_id="refused-http")
    request = pb.SampleRequest(spec=pb.Spec(vocab_size=1))
    ask_grpc(json_service, request, ("x-request-id", "refused-grpc"))
    one, other = call_of(json_service, "refused-http"), call_of(json_service, "refused-grpc")
    for told in (one, other):
        for name in ("time", "seconds", "request_id", "door"):
            del told[name]
    assert one == other
    assert one["outcome"] == "INVALID_ARGUMENT"
    assert one["detail"].startswith("vocab_size (V) is 1; it must be")
    assert one["samples"] == one["bytes"] == 0


@pytest.mark.parametrize("door", DOORS)
def test_a_stream_that_is_left_is_cancelled(json_service: Service, door: str) -> None:
    already = len(json_service.lines)
    with opened(getattr(json_service, door)) as client:
        stream = client.batches(L=2**14)
        next(stream)
        stream.close()

    def cancelled(line: str) -> bool:
        return line in json_service.lines[already:] and '"CANCELLED"' in line

    told = json.loads(logged(json_service, cancelled))
    assert (told["door"], told["method"]) == (door, "StreamBatches")
    assert 32 <= told["samples"] < 32 * 2**12


@pytest.mark.parametrize("status", [200, 304, 400, 404, 405, 503])
def test_http_answers_carry_the_id(json_service: Service, status: int) -> None:
    path = {
        304: "/sample?L=12&seed=1",
        400: "/sample?V=1",
        404: "/nothing",
        405: "/healthz",
        503: "/sample?L=12&seed=1",
    }.get(status, "/describe")
    if status == 405:
        answer = urllib3.request(
            "PUT", json_service.http + path, headers={"x-request-id": "given-405"}, retries=False
        )
    elif status == 304:
        answer = ask_http(json_service, path, x_request_id="given-304", if_none_match="*")
    elif status == 503:
        with running("--max-requests", "1") as small, opened(small.http) as client:
            stream = client.batches(L=2**14)
            next(stream)
            answer = ask_http(small, path, x_request_id="given-503")
            stream.close()
    else:
        answer = ask_http(json_service, path, x_request_id=f"given-{status}")
    assert answer.status == status
    assert answer.headers.getlist("x-request-id") == [f"given-{status}"]


def test_grpc_answers_carry_the_id(json_service: Service) -> None:
    for request, code in (
        (pb.SampleRequest(spec=pb.Spec(sequence_length=5), seed=1), grpc.StatusCode.OK),
        (pb.SampleRequest(size=0), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.SampleRequest(generator="metalm-9"), grpc.StatusCode.NOT_FOUND),
    ):
        given = f"given-{code.name}"
        found, told = ask_grpc(json_service, request, ("x-request-id", given))
        assert (found, told["x-request-id"]) == (code, given)
        # The error's own details are still there.
        assert ("grpc-status-details-bin" in told) == (code is not grpc.StatusCode.OK)
        assert call_of(json_service, given)["door"] == "grpc"


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "ümlaut", "tab\tbed", "\x7f"])
def test_an_id_that_is_not_fit_is_replaced(json_service: Service, given: str) -> None:
    host = urlsplit(json_service.http)
    request = b"GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-request-id: "
    with socket.create_connection((host.hostname, host.port or 0), timeout=20) as connection:
        connection.sendall(request + given.encode() + b"\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(2**16), b""))
    if answer.startswith(b"HTTP/1.1 200"):
        (told,) = re.findall(rb"\r\nx-request-id: (.*)\r\n", answer)
        assert re.fullmatch(rb"[0-9a-f]{32}", told)
        assert call_of(json_service, told.decode())["method"] == "Describe"
    else:
        assert answer.startswith(b"HTTP/1.1 400")


NASTY = [
    "/nothing%0d%0a2026-01-01T00:00:00.000Z%20INFO%20metalm_service.calls%20call%20outcome=OK",
    "/%1b%5b31mred%07%00%7f%c2%9b31m%e2%80%a8",
    "/sample?V=%0a%1b%5b2J",
    "/sample?%0a=%0a",
    "/sample?format=%1b%5d0;title%07",
    "/" + "x" * 5000,
]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_nothing_that_is_sent_steers_the_log(
    request: pytest.FixtureRequest, log_format: str
) -> None:
    service: Service = request.getfixturevalue(f"{log_format}_service")
    for number, path in enumerate(NASTY):
        ask_http(service, path, x_request_id=f"nasty-{number}")
    host = urlsplit(service.http)
    for raw in (
        b"GET /\xff\x1b[31m HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nx-request-id: a\x1b[31m\r\nconnection: close\r\n\r\n",
        b"\x1b[31m\n\n\r\n\r\n",
    ):
        with socket.create_connection((host.hostname, host.port or 0), timeout=20) as connection:
            connection.sendall(raw)
            with suppress(OSError):
                while connection.recv(2**16):
                    pass
    with grpc.insecure_channel(service.grpc.removeprefix("grpc://")) as channel:
        for path in ("/a\x1b[31m/b", "/" + "y" * 5000):
            call: Any = channel.unary_unary(path)
            with pytest.raises((grpc.RpcError, ValueError)):
                call(b"", timeout=20)
    generator = pb.SampleRequest(generator="\n\x1b[31mmetalm\r")
    ask_grpc(service, generator, ("x-request-id", "nasty-last"))
    logged(service, lambda line: "nasty-last" in line)
    for number in range(len(NASTY)):
        given = f"nasty-{number}"
        logged(service, partial(contains, given))
    for line in service.lines[1:]:
        assert line.endswith("\n")
        assert re.fullmatch(r"[\x20-\x7e]*", line[:-1]), line
        assert len(line) < 2000
        if log_format == "json":
            json.loads(line)
        else:
            assert TIME.match(line), line


def contains(part: str, line: str) -> bool:
    return part in line


def test_text_is_names_and_values(text_service: Service) -> None:
    ask_http(text_service, "/sample?V=1", x_request_id="as-text")
    line = logged(text_service, lambda line: "as-text" in line)
    assert re.fullmatch(
        r'\S+Z INFO metalm_service\.calls call request_id=as-text door=http method=Sample '
        r'client=127\.0\.0\.1 outcome=INVALID_ARGUMENT samples=0 bytes=0 seconds=\d+\.\d{6} '
        r'detail="vocab_size \(V\) is 1; it must be .*"\n',
        line,
    )  # fmt: skip


BY_THEMSELVES = ("/healthz", "/readyz", "/metrics", "/", "/page/app.js", "/docs", "/openapi.json")


def test_what_comes_by_itself_is_logged_for_debugging_only(text_service: Service) -> None:
    def probe(service: Service) -> None:
        for path in BY_THEMSELVES:
            assert ask_http(service, path, x_request_id="probe-http").status == 200
        with grpc.insecure_channel(service.grpc.removeprefix("grpc://")) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            told = (("x-request-id", "probe-grpc"),)
            stub.Check(health_pb2.HealthCheckRequest(), metadata=told, timeout=20)
        ask_http(service, "/version", x_request_id="behind-the-probes")
        logged(service, lambda line: "behind-the-probes" in line)

    probe(text_service)
    assert not [line for line in text_service.lines if "probe-" in line]
    with running("--log-level", "debug") as talkative:
        probe(talkative)
        assert len([line for line in talkative.lines if "probe-http" in line]) == len(BY_THEMSELVES)
        assert len([line for line in talkative.lines if "probe-grpc" in line]) == 1


def test_a_file_that_no_page_has_is_logged(text_service: Service) -> None:
    ask_http(text_service, "/page/nothing.js", x_request_id="no-file")
    line = logged(text_service, lambda line: "no-file" in line)
    assert "method=Page" in line
    assert "outcome=NO_SUCH_METHOD" in line


def test_a_level_hides_what_is_below_it() -> None:
    with running(METALM_LOG_LEVEL="warning", METALM_LOG_FORMAT="json") as service:
        ask_http(service, "/sample?L=5", x_request_id="quiet")
        assert service.stop() == 0
        assert not [line for line in service.lines if "quiet" in line]


def test_what_proves_who_asks_is_not_logged(text_service: Service) -> None:
    secret = "c2VjcmV0LXNlY3JldA"
    ask_http(text_service, "/sample?L=5", authorization=f"Bearer {secret}", cookie=secret)
    told = (("authorization", f"Bearer {secret}"), ("x-request-id", "with-a-secret"))
    ask_grpc(text_service, pb.SampleRequest(spec=pb.Spec(vocab_size=1)), *told)
    logged(text_service, lambda line: "with-a-secret" in line)
    assert not [line for line in text_service.lines if secret in line]


@pytest.mark.parametrize(
    ("flag", "value", "bound"),
    [("--log-format", "xml", "text, json"), ("--log-level", "loud", "debug, info")],
)
def test_wrong_settings_are_told(flag: str, value: str, bound: str) -> None:
    process = metalm("serve", flag, value)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert len(errors.splitlines()) == 1
    for part in (flag, value, bound):
        assert part in errors


@pytest.fixture
def root() -> Iterator[None]:
    """The root logger, which is given back as it was."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)
    for name in ("metalm_service", "asyncio"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("log_format", LogFormat)
def test_what_libraries_log_has_the_same_form(log_format: LogFormat) -> None:
    written = io.StringIO()
    logs.configure(log_format, LogLevel.INFO, written)
    try:
        raise ValueError("first\n2026-01-01T00:00:00.000Z INFO forged\x1b[31m")
    except ValueError:
        logging.getLogger("grpc._server").exception("it\nfailed: %s", "\x00")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    logging.getLogger("uvicorn.error").info("not this")
    text = written.getvalue()
    assert re.fullmatch(r"[\x20-\x7e\n]*", text)
    if log_format is LogFormat.JSON:
        failed, warned = map(json.loads, text.splitlines())
        assert failed["message"] == "it\nfailed: \x00"
        assert "ValueError: first" in failed["traceback"]
        assert (warned["logger"], warned["level"]) == ("uvicorn.error", "warning")
    else:
        margin = [line for line in text.splitlines() if not line.startswith("    ")]
        assert len(margin) == 2
        assert "ERROR grpc._server it\\nfailed: \\x00" in margin[0]
        assert margin[1].endswith("WARNING uvicorn.error Invalid HTTP request received.")
        assert "ValueError: first" in text
