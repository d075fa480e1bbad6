"""The gRPC door: decode, handler, encode."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from concurrent.futures import Executor
from functools import partial
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from metalm_proto import errors, messages, wire
from metalm_proto.batch import Batch
from metalm_proto.v1 import metalm_pb2 as pb
from metalm_service.ahead import Ahead
from metalm_service.calls import Calls
from metalm_service.grpc.calls import CallContext, CallsInterceptor
from metalm_service.grpc.decoding import DecodingInterceptor
from metalm_service.grpc.stalls import StallWatch
from metalm_service.handler import CallerGoneError, Handler
from metalm_service.tls import Certificates
from metalm_service.tokens import Tokens

SERVICE = pb.DESCRIPTOR.services_by_name["MetaLMService"].full_name
SPARE_THREADS = 8
"""Threads beyond those that admitted requests can hold: for health, reflection, refusals."""

_MINUTE_MS = 60_000
_CONNECTION_OPTIONS = (
    # Peers that are gone without a word are found out.
    ("grpc.keepalive_time_ms", _MINUTE_MS),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Clients may look as often as that; by default, every five minutes.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.max_connection_idle_ms", 5 * _MINUTE_MS),
    # A client that balances by itself sees new replicas when its connection ends; calls under way
    # are finished first.
    ("grpc.max_connection_age_ms", 10 * _MINUTE_MS),
)

M = TypeVar("M", bound=Message)

_log = logging.getLogger(__name__)


class _Servicer:
    def __init__(
        self, handler: Handler, executor: Executor, tokens: Tokens, stalls: StallWatch
    ) -> None:
        self._handler = handler
        self._executor = executor
        self._tokens = tokens
        self._stalls = stalls

    def describe(self, data: bytes, context: CallContext) -> pb.DescribeResponse:
        try:
            self._identify(context)
            message = _parsed(pb.DescribeRequest, data)
            spec = messages.spec_from_message(message.spec) if message.HasField("spec") else None
            return messages.description_to_message(self._handler.describe(spec))
        except Exception as error:
            _abort(context, error)

    def sample(self, data: bytes, context: CallContext) -> bytes:
        try:
            self._identify(context)
            request = messages.sample_request_from_message(_parsed(pb.SampleRequest, data))
            admission = self._handler.admit(context.call, request)
            _at_the_end_of(context, admission.close)
            (answer,) = context.call.sent(admission.batches(_encode, context.is_active))
            self._stalls.reader(context.underlying).given(len(answer))
            return answer
        except Exception as error:
            _abort(context, error)

    def stream_batches(self, data: bytes, context: CallContext) -> Iterator[bytes]:
        try:
            self._identify(context)
            message = _parsed(pb.StreamBatchesRequest, data)
            request = messages.stream_request_from_message(message)
            admission = self._handler.admit(context.call, request)
            stream = Ahead(admission, _encode, self._executor, context.is_active)
            _at_the_end_of(context, stream.close)
            reader = self._stalls.reader(context.underlying)
            for answer in context.call.sent(iter(stream.following, None)):
                reader.given(len(answer))
                yield answer
                reader.taken()
                stream.taken()
                # Not kept while the next one is waited for.
                del answer
        except Exception as error:
            _abort(context, error)

    def _identify(self, context: CallContext) -> None:
        """Raises Unauthenticated."""
        call = context.call
        given = _authorization(context.invocation_metadata())
        call.client = self._tokens.client(given, call.client)


class GrpcServer:
    """The gRPC server of a configuration; `port` is the one it listens on.

    Raises OSError if the address cannot be bound.
    """

    def __init__(
        self,
        handler: Handler,
        executor: Executor,
        calls: Calls,
        tokens: Tokens,
        certificates: Certificates | None,
    ) -> None:
        config = handler.config
        threads = config.max_requests + SPARE_THREADS
        self._server = grpc.server(
            futures.ThreadPoolExecutor(threads, "grpc"),
            # More calls than threads would wait without an answer, health checks among them.
            maximum_concurrent_rpcs=threads,
            # The last two are given what the first makes of a context.
            interceptors=[CallsInterceptor(calls), _Guard(tokens), DecodingInterceptor()],
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", 2**18),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_concurrent_streams", threads),
                ("grpc.server_handshake_timeout_ms", config.request_timeout_s * 1000),
                *_CONNECTION_OPTIONS,
            ],
        )
        logging.getLogger("grpc._cython.cygrpc").addFilter(_worth_a_line)
        self._stalls = StallWatch(config.stall_timeout_s)
        servicer = _Servicer(handler, executor, tokens, self._stalls)
        # Not the generated servicer: it would serialise every batch once more, and call a message
        # that cannot be parsed a defect of the service.
        methods: dict[str, Any] = {
            "Describe": grpc.unary_unary_rpc_method_handler(
                servicer.describe, None, pb.DescribeResponse.SerializeToString
            ),
            "Sample": grpc.unary_unary_rpc_method_handler(servicer.sample),
            "StreamBatches": grpc.unary_stream_rpc_method_handler(servicer.stream_batches),
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, methods),)
        )
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if config.reflection:
            names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)
        self.set_serving(False)
        host = f"[{config.host}]" if ":" in config.host else config.host
        place = f"{host}:{config.grpc_port}"
        try:
            self.port = (
                self._server.add_insecure_port(place)
                if certificates is None
                else self._server.add_secure_port(place, certificates.grpc_credentials())
            )
        except RuntimeError as error:
            raise OSError(f"cannot listen on {place}") from error

    def set_serving(self, serving: bool) -> None:
        """What the health service says, of the server and of the data service."""
        status = health_pb2.HealthCheckResponse
        for name in ("", SERVICE):
            self._health.set(name, status.SERVING if serving else status.NOT_SERVING)

    def start(self) -> None:
        self._server.start()
        self._stalls.start()

    def stop(self, grace_s: float) -> threading.Event:
        """Refuses new calls, gives running ones `grace_s`; the event is set when all is over."""
        self._health.enter_graceful_shutdown()
        self._stalls.stop()
        return self._server.stop(grace_s)


def _encode(batch: Batch) -> bytes:
    return wire.batch_response(wire.encode_batch(batch))


def _at_the_end_of(context: CallContext, close: Callable[[], None]) -> None:
    """A reservation lasts until its call has ended: until then its bytes may wait in gRPC's own
    buffers, whatever this side has done."""
    if not context.add_callback(close):
        close()


def _worth_a_line(record: logging.LogRecord) -> bool:
    """Not a traceback for each header whose bytes are no UTF-8: gRPC reads it as Latin-1 and goes
    on, and a request of some KiB could fill a disk with them."""
    return not str(record.msg).startswith("Invalid encoding on")


def _authorization(metadata: Iterable[tuple[str, str | bytes]]) -> list[str]:
    return [str(value) for name, value in metadata if name == "authorization"]


class _Guard(grpc.ServerInterceptor):
    """Asks for a token where the servicer does not do it: everywhere but in its own methods, which
    count their refusals, and in health checks."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = continuation(details)
        service = details.method.rpartition("/")[0].removeprefix("/")
        if handler is None or service in (SERVICE, health.SERVICE_NAME):
            return handler
        try:
            self._tokens.client(_authorization(details.invocation_metadata), "")
        except errors.Unauthenticated as error:
            # Reflection has no other kind.
            return grpc.stream_stream_rpc_method_handler(partial(_refused, error))
        return handler


def _refused(error: errors.Unauthenticated, _: object, context: CallContext) -> NoReturn:
    _abort(context, error)


def _parsed(kind: type[M], data: bytes) -> M:
    """The message. Raises InvalidArgument if the bytes are none."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        bound = f"a serialised {kind.DESCRIPTOR.full_name}"
        raise errors.InvalidArgument("request", data[:16], bound) from error


def _abort(context: CallContext, error: Exception) -> NoReturn:
    """Ends the call with the error's own code and details, and never with a defect's text."""
    if isinstance(error, CallerGoneError):
        context.abort(grpc.StatusCode.CANCELLED, "the caller has gone")
    if not isinstance(error, errors.MetaLMError):
        _log.error("a call failed", exc_info=error)
        error = errors.InternalError("the service failed; its log has the cause")
    context.call.failed(error.reason, str(error))
    context.abort_with_status(rpc_status.to_status(_status(error)))


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
