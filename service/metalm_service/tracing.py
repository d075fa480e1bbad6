"""A span for each call, where a collector is configured (OpenTelemetry, the extra otel)."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from metalm_proto.errors import InvalidArgument
from metalm_proto.spec import SPEC_FIELDS
from metalm_service.calls import OK, OTHER, PAGE, SERVICE, Call, Watcher
from metalm_service.handler import VERSION

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_FLUSH_S = 3.0
"""What a collector that does not answer may hold up the end of the process."""
_ANY_PATH = (OTHER, PAGE)
_FAULTS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
"""Codes of gRPC that are an error of the server."""


def tracing(environment: Mapping[str, str]) -> Tracing | None:
    """What the OTEL_* variables ask for; None if they name no collector.

    Raises InvalidArgument if they name one and OpenTelemetry is not installed, or if they want a
    protocol that it does not have.
    """
    named = next((name for name in _ENDPOINTS if environment.get(name)), None)
    if (
        named is None
        or environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
        or environment.get("OTEL_TRACES_EXPORTER", "otlp") == "none"
    ):
        return None
    try:
        return Tracing(_provider(_exporter(environment)))
    except ModuleNotFoundError as error:
        # The address may hold a password.
        bound = f"absent without {error.name}; or: pip install '.[otel]'"
        raise InvalidArgument(named, "given", bound) from error


class Tracing(Watcher):
    """Tells the provider's exporter of each call that has ended, but for probes, scrapes and the
    files of pages.

    The attributes are those of the semantic conventions for HTTP and RPC servers, and the size of
    what was asked for.
    """

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("metalm_service", VERSION)
        self._extract = TraceContextTextMapPropagator().extract

    def ended(self, call: Call) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode

        if call.is_background:
            return
        span = self._tracer.start_span(
            _name(call),
            self._extract(call.parent),
            SpanKind.SERVER,
            {**_asked(call), **_size(call)},
            start_time=call.began_ns,
        )
        if call.outcome != OK:
            span.set_attribute("error.type", call.outcome)
        if _is_fault(call.status):
            span.set_status(Status(StatusCode.ERROR, call.detail))
        span.end(call.began_ns + int(call.seconds * 1e9))

    def close(self) -> None:
        """Sends what there is, for some seconds at most."""
        ending = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        ending.start()
        ending.join(_FLUSH_S)


def _provider(exporter: SpanExporter) -> TracerProvider:
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say comes first.
    given = OTELResourceDetector().detect().attributes
    own = {"service.name": "metalm", "service.version": VERSION}
    resource = Resource.create({name: own[name] for name in own if name not in given})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _exporter(environment: Mapping[str, str]) -> SpanExporter:
    named = next((name for name in _PROTOCOLS if environment.get(name)), _PROTOCOLS[-1])
    protocol = environment.get(named, "http/protobuf")
    if protocol == "http/protobuf":
        from opentelemetry.exporter.otlp.proto.http import trace_exporter as over_http

        return over_http.OTLPSpanExporter()
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as over_grpc

        return over_grpc.OTLPSpanExporter()
    raise InvalidArgument(named, protocol, "http/protobuf or grpc")


def _name(call: Call) -> str:
    if call.door == "grpc":
        return f"{SERVICE}/{call.method}" if call.method != OTHER else OTHER
    method, path = call.attributes["http.request.method"], call.attributes["url.path"]
    # Of a path that is none of ours the name would be the caller's choice.
    return f"{method} {path}" if call.method not in _ANY_PATH else method


def _asked(call: Call) -> dict[str, Any]:
    """What was asked and answered, in the words of the door's protocol."""
    told: dict[str, Any] = {
        "client.address": call.client,
        "metalm.request_id": call.request_id,
        **call.attributes,
    }
    if call.door == "grpc":
        told |= {"rpc.system.name": "grpc", "rpc.response.status_code": call.status or OK}
        if call.method != OTHER:
            told["rpc.method"] = _name(call)
    else:
        if call.status is not None:
            told["http.response.status_code"] = call.status
        if call.method not in _ANY_PATH:
            told["http.route"] = call.attributes["url.path"]
    return told


def _size(call: Call) -> dict[str, Any]:
    """How much was asked for, and how much was sent."""
    told: dict[str, Any] = {
        "metalm.sent.batches": call.batches,
        "metalm.sent.samples": call.samples,
        "metalm.sent.tokens": call.tokens,
        "metalm.sent.bytes": call.bytes,
    }
    if call.request is not None:
        told |= {
            "metalm.samples": call.request.samples,
            "metalm.batch_size": call.request.batch_size,
            "metalm.split": str(call.request.split),
            "metalm.provenance": call.request.provenance,
        }
        for field in SPEC_FIELDS:
            value = getattr(call.request.spec, field.name)
            if value is not None:
                # Numbers of 64 bits without a sign do not fit.
                fits = isinstance(value, int | float) and value < 2**63
                told[f"metalm.spec.{field.long_name}"] = value if fits else str(value)
    return told


def _is_fault(status: int | str | None) -> bool:
    """Whether the semantic conventions call it an error of the server."""
    if isinstance(status, int):
        return status >= 500
    return status in _FAULTS
