"""Who may come in at the gRPC door, and how many at one time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from metalm_proto import errors
from metalm_service.grpc.behaviours import (
    Behaviour,
    Continuation,
    behaviour_of,
    is_iterating,
    service_of,
    with_behaviour,
)
from metalm_service.grpc.calls import CallContext
from metalm_service.grpc.status import abort
from metalm_service.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Room:
    """For the calls of a service: how many it may have at one time, those whose request has not
    come yet included; and after how many seconds a client is to come again who finds none."""

    places: int
    come_again_s: Callable[[str], float]


class Guard(grpc.ServerInterceptor):
    """Asks for a token, and gives out places, before anything of a request is waited for.

    `rooms`: of the services, by their full names. A service that is not named is not guarded.
    """

    def __init__(self, tokens: Tokens, rooms: Mapping[str, Room]) -> None:
        self._tokens = tokens
        self._rooms = rooms
        self._places = {name: threading.Semaphore(room.places) for name, room in rooms.items()}

    def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = continuation(handler_call_details)
        service = service_of(handler_call_details.method)
        if handler is None or service not in self._places:
            return handler
        guarding = self._iterating if is_iterating(handler) else self._answering
        return with_behaviour(handler, guarding(service, behaviour_of(handler)))

    def _answering(self, service: str, behaviour: Behaviour) -> Behaviour:
        def answer(requests: Iterator[bytes], context: CallContext) -> Any:
            with self._admitted(service, context):
                return behaviour(requests, context)

        return answer

    def _iterating(self, service: str, behaviour: Behaviour) -> Behaviour:
        def iterate(requests: Iterator[bytes], context: CallContext) -> Iterator[Any]:
            with self._admitted(service, context):
                yield from behaviour(requests, context)

        return iterate

    @contextmanager
    def _admitted(self, service: str, context: CallContext) -> Iterator[None]:
        given = _authorization(context.invocation_metadata())
        try:
            context.call.client = self._tokens.client(given, context.call.client)
        except errors.Unauthenticated as error:
            abort(context, error)
        place = self._places[service]
        if not place.acquire(blocking=False):
            room = self._rooms[service]
            full = f"{service} has {room.places} calls, as many as may be at one time"
            abort(context, errors.Overloaded(full, room.come_again_s(context.call.client)))
        try:
            yield
        finally:
            place.release()


def _authorization(metadata: Iterable[tuple[str, str | bytes]]) -> list[str]:
    return [str(value) for name, value in metadata if name == "authorization"]
