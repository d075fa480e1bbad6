"""Calls at the gRPC door: where they begin and end, whatever they are for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import unquote

import grpc
from grpc_health.v1 import health

from metalm_proto.errors import ERRORS, InternalError
from metalm_service.calls import (
    CANCELLED,
    HEALTH,
    NO_SUCH_METHOD,
    OTHER,
    OWN_METHODS,
    REQUEST_ID,
    SERVICE,
    Call,
    Calls,
    client_of,
)
from metalm_service.grpc.behaviours import (
    Behaviour,
    Continuation,
    behaviour_of,
    is_iterating,
    service_of,
    with_behaviour,
)

# Of several errors with one code the first, which is the general one.
_OUTCOMES = {error.grpc_code: error.reason for error in reversed(ERRORS)} | {
    grpc.StatusCode.CANCELLED.name: CANCELLED,
    grpc.StatusCode.UNIMPLEMENTED.name: NO_SUCH_METHOD,
}


class CallContext:
    """gRPC's context of a call, and the call: whatever ends it early is its outcome, and its answer
    carries its id."""

    def __init__(self, context: grpc.ServicerContext, call: Call) -> None:
        self.call = call
        self._context = context
        self._told = ((REQUEST_ID, call.request_id),)
        context.set_trailing_metadata(self._told)

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]]:
        return self._context.invocation_metadata()

    def is_active(self) -> bool:
        return self._context.is_active()

    def cancel(self) -> None:
        self._context.cancel()

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Called when the call has ended; False if it has, and it never will be."""
        return self._context.add_callback(callback)

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        self.abort_with_status(_Status(code, details, ()))

    def abort_with_status(self, status: grpc.Status) -> NoReturn:
        self.call.status = status.code.name
        self.call.failed(_OUTCOMES.get(status.code.name, InternalError.reason), status.details)
        told = (*(status.trailing_metadata or ()), *self._told)
        self._context.abort_with_status(_Status(status.code, status.details, told))
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
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        path = handler_call_details.method
        handler = continuation(handler_call_details)
        if handler is None:
            return grpc.stream_stream_rpc_method_handler(self._iterating(path, _no_such_method))
        calling = self._iterating if is_iterating(handler) else self._answering
        return with_behaviour(handler, calling(path, behaviour_of(handler)))

    def _answering(self, path: str, behaviour: Behaviour) -> Behaviour:
        # With the attributes of the other one, by which gRPC knows how to call it. What keeps no
        # thread is over, as a call, when it has said that it will answer.
        @functools.wraps(behaviour)
        def answer(requests: Any, context: grpc.ServicerContext, *others: Any) -> Any:
            with self._begin(path, context) as call:
                return behaviour(requests, CallContext(context, call), *others)

        return answer

    def _iterating(self, path: str, behaviour: Behaviour) -> Behaviour:
        def iterate(requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with self._begin(path, context) as call:
                yield from behaviour(requests, CallContext(context, call))

        return iterate

    def _begin(self, path: str, context: grpc.ServicerContext) -> Call:
        told = {
            name: value for name, value in context.invocation_metadata() if isinstance(value, str)
        }
        return self._calls.begin("grpc", _method(path), client_of(_address(context.peer())), told)


def _method(path: str) -> str:
    service, name = service_of(path), path.rpartition("/")[2]
    if service == health.SERVICE_NAME:
        return HEALTH
    return name if service == SERVICE and name in OWN_METHODS else OTHER


def _address(peer: str) -> str:
    """The address in "ipv4:127.0.0.1:40000" or "ipv6:%5B::1%5D:40000"."""
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")


def _no_such_method(request: object, context: CallContext) -> NoReturn:
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "there is no such method")
