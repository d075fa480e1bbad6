"""gRPC's handlers taken apart and put together: a behaviour, and how its answer is written.

All of this door's behaviours are given their requests as an iterator, whatever their method's kind:
gRPC waits for the one message of a unary request before it calls anything, for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import grpc

Behaviour = Callable[..., Any]
"""Of the requests, a context and, if it keeps no thread, a function that sends an answer."""
Continuation = Callable[[grpc.HandlerCallDetails], "grpc.RpcMethodHandler[Any, Any] | None"]

_MARK = "experimental_non_blocking"
B = TypeVar("B", bound=Behaviour)


def keeps_no_thread(behaviour: B) -> B:
    """Marks a behaviour that returns at once and sends its answers later: gRPC gives it a third
    argument, the function that sends one."""
    setattr(behaviour, _MARK, True)
    return behaviour


def behaviour_of(handler: Any) -> Behaviour:
    kind = ("stream" if handler.request_streaming else "unary") + (
        "_stream" if handler.response_streaming else "_unary"
    )
    behaviour: Behaviour = getattr(handler, kind)
    return behaviour


def is_iterating(handler: Any) -> bool:
    """Whether the behaviour gives an iterator of answers."""
    return handler.response_streaming and not hasattr(behaviour_of(handler), _MARK)


def with_behaviour(handler: Any, behaviour: Behaviour) -> grpc.RpcMethodHandler[Any, Any]:
    """The handler with another behaviour, one that is given an iterator of bytes."""
    make = (
        grpc.stream_stream_rpc_method_handler
        if handler.response_streaming
        else grpc.stream_unary_rpc_method_handler
    )
    return make(behaviour, None, handler.response_serializer)


def service_of(path: str) -> str:
    """The full name of the service in "/metalm.v1.MetaLMService/Sample"."""
    return path.removeprefix("/").rpartition("/")[0]
