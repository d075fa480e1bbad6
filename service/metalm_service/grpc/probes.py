"""The health service (grpc.health.v1).

grpcio's own keeps the name of each watch that there ever was, and sends, with the lock of them all,
to those who do not read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

import grpc
from grpc_health.v1 import health
from grpc_health.v1 import health_pb2 as pb

from metalm_proto.errors import Overloaded
from metalm_service.calls import NO_SUCH_METHOD
from metalm_service.grpc.behaviours import keeps_no_thread
from metalm_service.grpc.calls import CallContext
from metalm_service.grpc.stalls import StallWatch
from metalm_service.grpc.status import abort

_WATCHES = 1024
"""Watches at one time. Each lasts for ever, and nobody needs a token for one."""
_COME_AGAIN_S = 60.0

Send = Callable[[pb.HealthCheckResponse], None]


class _Watch:
    """A caller who is told of each change of `status`."""

    def __init__(
        self, status: Callable[[], int], send: Send, context: CallContext, stalls: StallWatch
    ) -> None:
        self._status = status
        self._send = send
        self._context = context
        self._stalls = stalls
        self._told: int | None = None
        self._telling = threading.Lock()

    @property
    def busy(self) -> bool:
        """Whether it is being told."""
        return self._telling.locked()

    def tell(self) -> None:
        """Returns when it has taken the news, or is gone."""
        with self._telling:
            status = self._status()
            if status != self._told:
                self._told = status
                with self._stalls.reader(self._context) as reader:
                    reader.given(0)
                    self._send(pb.HealthCheckResponse(status=status))


class Health:
    """The health of the services `names`; of others it knows nothing, and keeps nothing.

    Thread-safe.
    """

    def __init__(self, names: Iterable[str], stalls: StallWatch) -> None:
        self._stalls = stalls
        self._lock = threading.Lock()
        self._statuses: dict[str, int] = dict.fromkeys(names, pb.HealthCheckResponse.NOT_SERVING)
        self._watches: set[_Watch] = set()

    def set(self, serving: bool) -> None:
        """The same for all of them. Those who watch are told by a thread of its own: one who does
        not read holds up no more than that."""
        status = pb.HealthCheckResponse.SERVING if serving else pb.HealthCheckResponse.NOT_SERVING
        self._statuses = dict.fromkeys(self._statuses, status)
        threading.Thread(target=self._tell, name="health", daemon=True).start()

    def handlers(self) -> grpc.GenericRpcHandler:
        methods = {
            "Check": grpc.unary_unary_rpc_method_handler(
                self.check,
                pb.HealthCheckRequest.FromString,
                pb.HealthCheckResponse.SerializeToString,
            ),
            "Watch": grpc.unary_stream_rpc_method_handler(
                self.watch,
                pb.HealthCheckRequest.FromString,
                pb.HealthCheckResponse.SerializeToString,
            ),
        }
        return grpc.method_handlers_generic_handler(health.SERVICE_NAME, methods)

    def check(self, request: pb.HealthCheckRequest, context: CallContext) -> pb.HealthCheckResponse:
        status = self._statuses.get(request.service)
        if status is None:
            context.call.failed(NO_SUCH_METHOD)
            context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service")
        return pb.HealthCheckResponse(status=status)

    @keeps_no_thread
    def watch(self, request: pb.HealthCheckRequest, context: CallContext, send: Send) -> None:
        # The name is the caller's choice, and may be long.
        name = request.service if request.service in self._statuses else None
        watch = _Watch(lambda: self._status(name), send, context, self._stalls)
        with self._lock:
            full = len(self._watches) >= _WATCHES
            if not full:
                self._watches.add(watch)
        if full:
            abort(context, Overloaded(f"{_WATCHES} watch already", _COME_AGAIN_S))
        if context.add_callback(lambda: self._forget(watch)):
            watch.tell()
        else:
            self._forget(watch)

    def _status(self, name: str | None) -> int:
        return pb.HealthCheckResponse.SERVICE_UNKNOWN if name is None else self._statuses[name]

    def _forget(self, watch: _Watch) -> None:
        with self._lock:
            self._watches.discard(watch)

    def _tell(self) -> None:
        with self._lock:
            watches = list(self._watches)
        # Those who read have the news first.
        for watch in sorted(watches, key=lambda watch: watch.busy):
            watch.tell()
