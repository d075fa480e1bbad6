"""Calls at the gRPC door: where they begin and end, whatever they are for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import unquote

import grpc
from grpc_health.v1 import health

from metalm_proto.errors import ERRORS, InternalError
from metalm_proto.v1 import metalm_pb2 as pb
from metalm_service.calls import (
    CANCELLED,
    HEALTH,
    NO_SUCH_METHOD,
    OTHER,
    OWN_METHODS,
    REQUEST_ID,
    Call,
    Calls,
)

_SERVICE = pb.DESCRIPTOR.services_by_name["MetaLMService"].full_name
# Of several errors with one code the first, which is the general one.
_OUTCOMES = {error.grpc_code: error.reason for error in reversed(ERRORS)} | {
    grpc.StatusCode.CANCELLED.name: CANCELLED,
    grpc.StatusCode.UNIMPLEMENTED.name: NO_SUCH_METHOD,
}

Behaviour = Callable[..., Any]


class CallContext:
    """gRPC's context of a call, and the call: whatever ends it early is its outcome, and its answer
    carries its id."""

    def __init__(self, context: grpc.ServicerContext, call: Call) -> None:
        self.call = call
        self.underlying = context
        self._told = ((REQUEST_ID, call.request_id),)
        context.set_trailing_metadata(self._told)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.underlying, name)

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        self.abort_with_status(_Status(code, details, ()))

    def abort_with_status(self, status: grpc.Status) -> NoReturn:
        self.call.status = status.code.name
        self.call.failed(_OUTCOMES.get(status.code.name, InternalError.reason), status.details)
        told = (*(status.trailing_metadata or ()), *self._told)
        self.underlying.abort_with_status(_Status(status.code, status.details, told))
        raise AssertionError("abort does not return")


@dataclass(frozen=True)
class _Status(grpc.Status):
    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[Any, ...]


class CallsInterceptor(grpc.ServerInterceptor):
    """Begins a call for whatever is asked, and ends it. To be the first of a server's interceptors:
    the behaviours behind it are given a CallContext."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        path = handler_call_details.method
        handler = continuation(handler_call_details)
        if handler is None:
            return grpc.stream_stream_rpc_method_handler(self._streaming(path, _no_such_method))
        request, response = handler.request_deserializer, handler.response_serializer
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                self._answering(path, handler.unary_unary), request, response
            )
        if handler.stream_stream:
            return grpc.stream_stream_rpc_method_handler(
                self._streaming(path, handler.stream_stream), request, response
            )
        # A watch of the health lasts for ever, and on no thread of the server's if it is left as
        # it is.
        if handler.unary_stream and not hasattr(handler.unary_stream, "experimental_non_blocking"):
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(path, handler.unary_stream), request, response
            )
        return handler

    def _answering(self, path: str, behaviour: Behaviour) -> Behaviour:
        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            with self._begin(path, context) as call:
                return behaviour(request, CallContext(context, call))

        return answer

    def _streaming(self, path: str, behaviour: Behaviour) -> Behaviour:
        def stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with self._begin(path, context) as call:
                yield from behaviour(request, CallContext(context, call))

        return stream

    def _begin(self, path: str, context: grpc.ServicerContext) -> Call:
        told = {
            name: value for name, value in context.invocation_metadata() if isinstance(value, str)
        }
        return self._calls.begin("grpc", _method(path), _address(context.peer()), told)


def _method(path: str) -> str:
    service, _, name = path.removeprefix("/").partition("/")
    if service == health.SERVICE_NAME:
        return HEALTH
    return name if service == _SERVICE and name in OWN_METHODS else OTHER


def _address(peer: str) -> str:
    """The address in "ipv4:127.0.0.1:40000" or "ipv6:%5B::1%5D:40000"."""
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")


def _no_such_method(request: object, context: CallContext) -> NoReturn:
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "there is no such method")
