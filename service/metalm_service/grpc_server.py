"""The gRPC door: decode, handler, encode."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from metalm_proto import errors, messages, wire
from metalm_proto.v1 import metalm_pb2 as pb
from metalm_service.config import ServerConfig
from metalm_service.handler import Handler

SERVICE = pb.DESCRIPTOR.services_by_name["MetaLMService"].full_name
SPARE_THREADS = 8
"""Threads beyond those that admitted requests can hold: for health, reflection, refusals."""

_log = logging.getLogger(__name__)


class _Servicer:
    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def describe(self, message: pb.DescribeRequest, context: grpc.ServicerContext) -> Any:
        try:
            spec = messages.spec_from_message(message.spec) if message.HasField("spec") else None
            return messages.description_to_message(self._handler.describe(spec))
        except Exception as error:
            _abort(context, error)

    def sample(self, message: pb.SampleRequest, context: grpc.ServicerContext) -> bytes:
        try:
            request = messages.sample_request_from_message(message)
            with self._handler.admit(request) as admission:
                (batch,) = admission.batches(_proceed_while(context))
                return wire.batch_response(wire.encode_batch(batch))
        except Exception as error:
            _abort(context, error)

    def stream_batches(
        self, message: pb.StreamBatchesRequest, context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        try:
            request = messages.stream_request_from_message(message)
            with self._handler.admit(request) as admission:
                for batch in admission.batches(_proceed_while(context)):
                    yield wire.batch_response(wire.encode_batch(batch))
        except Exception as error:
            _abort(context, error)


class GrpcServer:
    """A gRPC server on `address`; `port` is the one it listens on.

    Raises OSError if the address cannot be bound.
    """

    def __init__(self, handler: Handler, config: ServerConfig) -> None:
        self._server = grpc.server(
            futures.ThreadPoolExecutor(config.max_requests + SPARE_THREADS, "grpc"),
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", 2**18),
                ("grpc.max_send_message_length", -1),
            ],
        )
        servicer = _Servicer(handler)
        # The generated servicer would serialise every batch twice: these give bytes.
        methods: dict[str, Any] = {
            "Describe": grpc.unary_unary_rpc_method_handler(
                servicer.describe,
                pb.DescribeRequest.FromString,
                pb.DescribeResponse.SerializeToString,
            ),
            "Sample": grpc.unary_unary_rpc_method_handler(
                servicer.sample, pb.SampleRequest.FromString
            ),
            "StreamBatches": grpc.unary_stream_rpc_method_handler(
                servicer.stream_batches, pb.StreamBatchesRequest.FromString
            ),
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, methods),)
        )
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        self.set_serving(False)
        host = f"[{config.host}]" if ":" in config.host else config.host
        try:
            self.port = self._server.add_insecure_port(f"{host}:{config.grpc_port}")
        except RuntimeError as error:
            raise OSError(f"cannot listen on {host}:{config.grpc_port}") from error

    def set_serving(self, serving: bool) -> None:
        """What the health service says, of the server and of the data service."""
        status = health_pb2.HealthCheckResponse
        for name in ("", SERVICE):
            self._health.set(name, status.SERVING if serving else status.NOT_SERVING)

    def start(self) -> None:
        self._server.start()

    def stop(self, grace_s: float) -> threading.Event:
        """Refuses new calls, gives running ones `grace_s`; the event is set when all is over."""
        self._health.enter_graceful_shutdown()
        return self._server.stop(grace_s)


class _CallEndedError(Exception):
    """The caller has gone or its deadline has passed: there is nobody to answer."""


def _proceed_while(context: grpc.ServicerContext) -> Callable[[], None]:
    def proceed() -> None:
        if not context.is_active():
            raise _CallEndedError

    return proceed


def _abort(context: grpc.ServicerContext, error: Exception) -> NoReturn:
    """Ends the call with the error's own code and details, and never with a defect's text."""
    if isinstance(error, _CallEndedError):
        context.abort(grpc.StatusCode.CANCELLED, "the caller has gone")
    if not isinstance(error, errors.MetaLMError):
        _log.error("a call failed", exc_info=error)
        error = errors.InternalError("the service failed; its log has the cause")
    context.abort_with_status(rpc_status.to_status(_status(error)))
    raise AssertionError("abort does not return")


def _status(error: errors.MetaLMError) -> status_pb2.Status:
    info = error_details_pb2.ErrorInfo(
        reason=error.reason, domain=errors.DOMAIN, metadata=error.details()
    )
    details = [info]
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(retry_after_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=code_pb2.Code.Value(error.grpc_code), message=str(error))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status
