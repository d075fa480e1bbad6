"""Spans of real calls, as a collector receives them on a real socket."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import pytest
import urllib3
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, Status

from metalm_proto.v1 import metalm_pb2 as pb
from metalm_proto.v1 import metalm_pb2_grpc
from tests.door import opened
from tests.forked import metalm, running
from tests.service_process import Service

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


class Collected:
    """What was exported so far."""

    def __init__(self) -> None:
        self.resources: list[ResourceSpans] = []

    def add(self, request: otlp.ExportTraceServiceRequest) -> None:
        self.resources.extend(request.resource_spans)

    @property
    def spans(self) -> list[Span]:
        return [s for r in self.resources for scope in r.scope_spans for s in scope.spans]

    def first(self, chosen: Callable[[Span], bool]) -> Span:
        """The first span for which something is so; within a minute."""
        until = time.monotonic() + 60
        while not (found := list(filter(chosen, self.spans))):
            assert time.monotonic() < until, self.spans
            time.sleep(0.01)
        return found[0]

    def of_id(self, request_id: str) -> Span:
        return self.first(lambda span: attributes(span).get("metalm.request_id") == request_id)


@contextmanager
def http_collector() -> Iterator[tuple[str, Collected]]:
    collected = Collected()

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collected.add(otlp.ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", collected
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def grpc_collector() -> Iterator[tuple[str, Collected]]:
    collected = Collected()

    class Collector(otlp_grpc.TraceServiceServicer):
        def Export(
            self, request: otlp.ExportTraceServiceRequest, context: grpc.ServicerContext
        ) -> otlp.ExportTraceServiceResponse:
            collected.add(request)
            return otlp.ExportTraceServiceResponse()

    server = grpc.server(futures.ThreadPoolExecutor(2))
    otlp_grpc.add_TraceServiceServicer_to_server(Collector(), server)  # type: ignore[no-untyped-call] # generated
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}", collected
    finally:
        server.stop(0).wait()


@pytest.fixture(scope="module")
def traced() -> Iterator[tuple[Service, Collected]]:
    with http_collector() as (url, collected):
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        with running("--log-level", "warning", **settings) as service:
            yield service, collected


def attributes(span: Span) -> dict[str, Any]:
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value")
        for pair in span.attributes
    }


def ask(service: Service, door: str, request_id: str, vocab_size: int = 64) -> None:
    """One sample of 12 tokens, by a caller who is in a trace."""
    told = {"traceparent": TRACEPARENT, "tracestate": "vendor=1", "x-request-id": request_id}
    if door == "http":
        query = f"/sample?V={vocab_size}&L=12&seed=18446744073709551615"
        urllib3.request("GET", service.http + query, headers=told, retries=False)
        return
    with grpc.insecure_channel(service.grpc.removeprefix("grpc://")) as channel:
        stub = metalm_pb2_grpc.MetaLMServiceStub(channel)
        spec = pb.Spec(vocab_size=vocab_size, sequence_length=12)
        try:
            stub.Sample(pb.SampleRequest(spec=spec), metadata=tuple(told.items()), timeout=20)
        except grpc.RpcError:
            assert vocab_size == 1


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_a_call_is_a_span_of_its_callers_trace(
    traced: tuple[Service, Collected], door: str
) -> None:
    service, collected = traced
    ask(service, door, f"span-{door}")
    span = collected.of_id(f"span-{door}")
    assert span.trace_id.hex() == TRACE
    assert span.parent_span_id.hex() == PARENT
    assert span.trace_state == "vendor=1"
    assert span.kind == Span.SPAN_KIND_SERVER
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert 0 < span.end_time_unix_nano - span.start_time_unix_nano < 60e9
    assert abs(time.time_ns() - span.end_time_unix_nano) < 600e9
    told = attributes(span)
    expected = {
        "client.address": "127.0.0.1",
        "metalm.samples": 1,
        "metalm.batch_size": 1,
        "metalm.spec.vocab_size": 64,
        "metalm.spec.sequence_length": 12,
        "metalm.sent.samples": 1,
        "metalm.sent.tokens": 12,
    }
    if door == "http":
        assert span.name == "GET /sample"
        expected |= {
            "http.request.method": "GET",
            "http.response.status_code": 200,
            "http.route": "/sample",
            "url.path": "/sample",
            "url.scheme": "http",
        }
    else:
        assert span.name == "metalm.v1.MetaLMService/Sample"
        expected |= {
            "rpc.system.name": "grpc",
            "rpc.method": "metalm.v1.MetaLMService/Sample",
            "rpc.response.status_code": "OK",
        }
    assert expected.items() <= told.items()
    assert "error.type" not in told


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_a_refusal_says_why_and_is_no_fault_of_the_server(
    traced: tuple[Service, Collected], door: str
) -> None:
    service, collected = traced
    ask(service, door, f"refused-{door}", vocab_size=1)
    span = collected.of_id(f"refused-{door}")
    told = attributes(span)
    assert told["error.type"] == "INVALID_ARGUMENT"
    assert span.status.code == Status.STATUS_CODE_UNSET
    status = {"http": "http.response.status_code", "grpc": "rpc.response.status_code"}[door]
    assert told[status] == {"http": 400, "grpc": "INVALID_ARGUMENT"}[door]


def test_the_resource_says_which_service(traced: tuple[Service, Collected]) -> None:
    service, collected = traced
    ask(service, "http", "resource")
    collected.of_id("resource")
    told = {
        pair.key: pair.value.string_value for pair in collected.resources[0].resource.attributes
    }
    assert told["service.name"] == "metalm"
    assert told["service.version"]


def test_overload_is_a_fault_and_probes_are_nothing_to_trace() -> None:
    with grpc_collector() as (url, collected):
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "OTEL_EXPORTER_OTLP_INSECURE": "true",
            "OTEL_SERVICE_NAME": "named",
        }
        with running("--max-requests", "1", **settings) as service:
            for path in ("/healthz", "/readyz", "/metrics", "/", "/page/app.js"):
                urllib3.request("GET", service.http + path)
            with opened(service.grpc) as client:
                stream = client.batches(L=2**14)
                next(stream)
                ask(service, "http", "overloaded")
                stream.close()
            # What was not exported yet is, before the end.
            assert service.stop() == 0
    assert len(collected.spans) == 2
    span = collected.of_id("overloaded")
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert attributes(span)["error.type"] == "OVERLOADED"
    names = [pair.value.string_value for pair in collected.resources[0].resource.attributes]
    assert "named" in names


def test_a_collector_that_is_not_there_hurts_nobody() -> None:
    with running(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9") as service:
        ask(service, "http", "unheard")
        ask(service, "grpc", "unheard")
        began = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "settings",
    [{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"}],
    ids=str,
)
def test_nothing_of_it_is_loaded_unless_it_is_asked_for(settings: dict[str, str]) -> None:
    code = (
        "import os, sys; from metalm_service.tracing import tracing; import metalm_service.server;"
        f"assert tracing({settings}) is None; assert 'opentelemetry.sdk' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_without_the_extra_the_variable_is_an_error() -> None:
    code = (
        "import sys; sys.modules['opentelemetry.sdk'] = None; from metalm.cli import main;"
        "sys.modules['opentelemetry.sdk.trace'] = None;"
        "sys.exit(main(['serve', '--port', '0', '--grpc-port', '0']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:secret@127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for part in ("OTEL_EXPORTER_OTLP_ENDPOINT", "pip install '.[otel]'"):
        assert part in done.stderr
    assert "secret" not in done.stderr


def test_another_protocol_is_an_error() -> None:
    process = metalm(
        "serve",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
        OTEL_EXPORTER_OTLP_PROTOCOL="http/json",
    )
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert len(errors.splitlines()) == 1
    for part in ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "http/protobuf or grpc"):
        assert part in errors
