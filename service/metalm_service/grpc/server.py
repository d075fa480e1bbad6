"""The gRPC door: decode, handler, encode."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from metalm_proto import errors, messages
from metalm_proto.spec import BatchRequest
from metalm_proto.v1 import metalm_pb2 as pb
from metalm_service.calls import SERVICE, Calls
from metalm_service.config import ServerConfig
from metalm_service.grpc.arrivals import ArrivalsInterceptor
from metalm_service.grpc.calls import CallContext, CallsInterceptor
from metalm_service.grpc.guard import Guard, Room
from metalm_service.grpc.probes import Health
from metalm_service.grpc.stalls import StallWatch
from metalm_service.grpc.status import abort
from metalm_service.grpc.stream import Stream
from metalm_service.handler import Handler
from metalm_service.limits import TOGETHER
from metalm_service.places import SOONEST_S
from metalm_service.tls import Certificates
from metalm_service.tokens import Tokens

_REFUSED = 8
"""Calls of the data service beyond those that may be admitted: to be told so, and descriptions."""
_REFLECTIONS = 4
_PROBES = 4
SPARE_THREADS = _REFUSED + _REFLECTIONS + _PROBES
"""Threads beyond those that admitted requests can hold. The last of them only probes can hold, and
those who are refused at once."""
_QUEUE = 64
"""Calls that may wait for a thread: no longer than it takes to refuse as many. Those beyond are
refused by gRPC itself, which does not say when to come again."""

_MINUTE_MS = 60_000
_LONGEST_SILENCE_S = 20
_CONNECTION_OPTIONS = (
    # Peers that are gone without a word are found out.
    ("grpc.keepalive_time_ms", _MINUTE_MS),
    # Clients may look as often as that; by default, every five minutes.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.max_connection_idle_ms", 5 * _MINUTE_MS),
    # A client that balances by itself sees new replicas when its connection ends; calls under way
    # are finished first.
    ("grpc.max_connection_age_ms", 10 * _MINUTE_MS),
)

M = TypeVar("M", bound=Message)


class _Servicer:
    def __init__(self, handler: Handler, stalls: StallWatch) -> None:
        self._handler = handler
        self._stalls = stalls

    def describe(self, data: bytes, context: CallContext) -> pb.DescribeResponse:
        try:
            message = _parsed(pb.DescribeRequest, data)
            spec = messages.spec_from_message(message.spec) if message.HasField("spec") else None
            return messages.description_to_message(self._handler.describe(spec))
        except Exception as error:
            abort(context, error)

    def sample(self, data: bytes, context: CallContext) -> Iterator[bytes]:
        return self._answers(
            context, lambda: messages.sample_request_from_message(_parsed(pb.SampleRequest, data))
        )

    def stream_batches(self, data: bytes, context: CallContext) -> Iterator[bytes]:
        return self._answers(
            context,
            lambda: messages.stream_request_from_message(_parsed(pb.StreamBatchesRequest, data)),
        )

    def _answers(self, context: CallContext, asked: Callable[[], BatchRequest]) -> Iterator[bytes]:
        try:
            admission = self._handler.admit(context.call, asked(), TOGETHER)
            stream = Stream(admission, context.is_active)
            _at_the_end_of(context, stream.close)
            with self._stalls.reader(context) as reader:
                for answer in context.call.sent(stream):
                    reader.given(len(answer))
                    yield answer
                    reader.taken()
                    stream.taken()
                    # Not kept while the next one is waited for.
                    del answer
        except Exception as error:
            abort(context, error)


class GrpcServer:
    """The gRPC server of a configuration; `port` is the one it listens on.

    Raises OSError if the address cannot be bound.
    """

    def __init__(
        self,
        handler: Handler,
        calls: Calls,
        tokens: Tokens,
        certificates: Certificates | None,
    ) -> None:
        config = handler.config
        self._stalls = StallWatch(config.stall_timeout_s)
        rooms = {
            SERVICE: Room(config.max_requests + _REFUSED, handler.come_again_s),
            # For which no room of the data is kept.
            reflection.SERVICE_NAME: Room(_REFLECTIONS, lambda client: SOONEST_S),
        }
        threads = config.max_requests + SPARE_THREADS
        self._server = grpc.server(
            futures.ThreadPoolExecutor(threads, "grpc"),
            # More would wait without an answer, health checks among them.
            maximum_concurrent_rpcs=threads + _QUEUE,
            # The last two are given what the first makes of a context.
            interceptors=[
                CallsInterceptor(calls),
                Guard(tokens, rooms),
                ArrivalsInterceptor(self._stalls, config.request_timeout_s),
            ],
            options=_options(config, threads),
        )
        logging.getLogger("grpc._cython.cygrpc").addFilter(_worth_a_line)
        servicer = _Servicer(handler, self._stalls)
        # Not the generated servicer: it would serialise every batch once more, and call a message
        # that cannot be parsed a defect of the service.
        methods: dict[str, Any] = {
            "Describe": grpc.unary_unary_rpc_method_handler(
                servicer.describe, None, pb.DescribeResponse.SerializeToString
            ),
            # A stream of one is the same on the wire, and one hears when it has been taken.
            "Sample": grpc.unary_stream_rpc_method_handler(servicer.sample),
            "StreamBatches": grpc.unary_stream_rpc_method_handler(servicer.stream_batches),
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, methods),)
        )
        self._health = Health(("", SERVICE), self._stalls)
        self._server.add_generic_rpc_handlers((self._health.handlers(),))
        if config.reflection:
            names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)
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
        self._health.set(serving)

    def start(self) -> None:
        self._server.start()
        self._stalls.start()

    def stop(self, grace_s: float) -> threading.Event:
        """Refuses new calls, gives running ones `grace_s`; the event is set when all is over."""
        self.set_serving(False)
        over = self._server.stop(grace_s)
        self._stalls.watch_until(over)
        return over


def _options(config: ServerConfig, streams: int) -> list[tuple[str, int]]:
    """`streams`: calls at one time on one connection."""
    silence_s = min(_LONGEST_SILENCE_S, config.stall_timeout_s)
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", 2**18),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", streams),
        ("grpc.max_allowed_incoming_connections", config.max_connections),
        ("grpc.server_handshake_timeout_ms", config.request_timeout_s * 1000),
        ("grpc.keepalive_timeout_ms", silence_s * 1000),
        *_CONNECTION_OPTIONS,
    ]


def _at_the_end_of(context: CallContext, close: Callable[[], None]) -> None:
    """A reservation lasts until its call has ended: until then its bytes may wait in gRPC's own
    buffers, whatever this side has done."""
    if not context.add_callback(close):
        close()


def _worth_a_line(record: logging.LogRecord) -> bool:
    """Not a traceback for each header whose bytes are no UTF-8: gRPC reads it as Latin-1 and goes
    on, and a request of some KiB could fill a disk with them."""
    return not str(record.msg).startswith("Invalid encoding on")


def _parsed(kind: type[M], data: bytes) -> M:
    """The message. Raises InvalidArgument if the bytes are none."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        bound = f"a serialised {kind.DESCRIPTOR.full_name}"
        raise errors.InvalidArgument("request", data[:16], bound) from error
