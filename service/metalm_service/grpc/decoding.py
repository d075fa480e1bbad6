"""Requests of gRPC's own services, health and reflection, that are no messages."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

Decode = Callable[[bytes], Any]


class DecodingInterceptor(grpc.ServerInterceptor):
    """Refuses, as the caller's fault, bytes that a method cannot decode and methods that nobody has
    implemented. gRPC itself calls both a defect of the server, and logs a traceback for each."""

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler: Any = continuation(handler_call_details)
        if handler is None or handler.request_deserializer is None:
            return handler
        kind = ("stream" if handler.request_streaming else "unary") + (
            "_stream" if handler.response_streaming else "_unary"
        )
        decoding = _decoding_all if handler.request_streaming else _decoding
        behavior = decoding(getattr(handler, kind), handler.request_deserializer)
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(behavior, None, handler.response_serializer)


def _decoding(behavior: Callable[..., Any], decode: Decode) -> Callable[..., Any]:
    # With the attributes of the other one, by which gRPC knows how to call it.
    @functools.wraps(behavior)
    def decoded(data: bytes, context: grpc.ServicerContext, *others: Any) -> Any:
        request = _decoded(data, decode, context)
        try:
            return behavior(request, context, *others)
        except NotImplementedError:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "the method is not implemented here")

    return decoded


def _decoding_all(behavior: Callable[..., Any], decode: Decode) -> Callable[..., Any]:
    @functools.wraps(behavior)
    def decoded(requests: Iterator[bytes], context: grpc.ServicerContext, *others: Any) -> Any:
        return behavior((_decoded(data, decode, context) for data in requests), context, *others)

    return decoded


def _decoded(data: bytes, decode: Decode, context: grpc.ServicerContext) -> Any:
    try:
        return decode(data)
    except DecodeError:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request is no message of its method")
