"""What callers send: waited for, for some seconds, and decoded.

gRPC itself waits for ever, with a thread; and it calls bytes that cannot be decoded a defect of the
server, and logs a traceback for each.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health

from metalm_service.calls import CANCELLED
from metalm_service.grpc.behaviours import (
    Behaviour,
    Continuation,
    behaviour_of,
    service_of,
    with_behaviour,
)
from metalm_service.grpc.calls import CallContext
from metalm_service.grpc.stalls import StallWatch

_PROBE_TIMEOUT_S = 1.0
"""A probe's message comes with its headers. Nobody needs a token for one, so that half of one must
not keep a thread for long."""

_Wait = Callable[[Iterator[bytes], CallContext], Any]


class ArrivalsInterceptor(grpc.ServerInterceptor):
    """Gives each behaviour its decoded message, or its iterator of them, as it expects.

    A call whose message has not come after `timeout_s` is cancelled, and so is a conversation whose
    answer nobody reads. To be the last of a server's interceptors.
    """

    def __init__(self, stalls: StallWatch, timeout_s: float) -> None:
        self._stalls = stalls
        self._timeout_s = timeout_s

    def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler: Any = continuation(handler_call_details)
        if handler is None:
            return None
        probe = service_of(handler_call_details.method) == health.SERVICE_NAME
        within_s = min(self._timeout_s, _PROBE_TIMEOUT_S) if probe else self._timeout_s
        decode = handler.request_deserializer or bytes

        def wait(requests: Iterator[bytes], context: CallContext) -> Any:
            """The next message; None at the end of the requests."""
            data = self._next(requests, context, within_s)
            return None if data is None else _decoded(data, decode, context)

        taking = self._conversing if handler.request_streaming else _asking
        return with_behaviour(handler, taking(behaviour_of(handler), wait))

    def _next(
        self, requests: Iterator[bytes], context: CallContext, within_s: float
    ) -> bytes | None:
        """Raises grpc.RpcError if the call is cancelled meanwhile."""
        with self._stalls.sender(context, within_s) as sender:
            try:
                return next(requests, None)
            except grpc.RpcError:
                late = f"no message came in {within_s:g} s" if sender.stalled else ""
                context.call.failed(CANCELLED, late)
                raise

    def _conversing(self, behaviour: Behaviour, wait: _Wait) -> Behaviour:
        def converse(requests: Iterator[bytes], context: CallContext) -> Iterator[Any]:
            messages = iter(functools.partial(wait, requests, context), None)
            with self._stalls.reader(context) as reader:
                for answer in behaviour(messages, context):
                    reader.given(0)
                    yield answer
                    reader.taken()

        return converse


def _asking(behaviour: Behaviour, wait: _Wait) -> Behaviour:
    # With the attributes of the other one, by which gRPC knows how to call it.
    @functools.wraps(behaviour)
    def ask(requests: Iterator[bytes], context: CallContext, *others: Any) -> Any:
        request = wait(requests, context)
        if request is None:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request has no message")
        return behaviour(request, context, *others)

    return ask


def _decoded(data: bytes, decode: Callable[[bytes], Any], context: CallContext) -> Any:
    try:
        return decode(data)
    except DecodeError:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request is no message of its method")
