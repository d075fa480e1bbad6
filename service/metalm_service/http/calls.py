"""Calls at the HTTP door: where they begin and end, whatever they are for."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from metalm_proto.errors import ERRORS, InternalError
from metalm_service.calls import (
    CANCELLED,
    FLOORS,
    HEALTH,
    METRICS,
    NO_SUCH_METHOD,
    OTHER,
    PAGE,
    REQUEST_ID,
    Call,
    Calls,
    client_of,
)

_METHODS = {
    "/sample": "Sample",
    "/batches": "StreamBatches",
    "/floors": FLOORS,
    "/describe": "Describe",
    "/version": "Describe",
    "/healthz": HEALTH,
    "/readyz": HEALTH,
    "/metrics": METRICS,
}
_PAGES = {"/", "/docs", "/openapi.json"}
_BELOW_PAGES = ("/page/", "/docs/")
# Of several errors with one status the first, which is the general one.
_OUTCOMES = {error.http_status: error.reason for error in reversed(ERRORS)} | {
    404: NO_SUCH_METHOD,
    405: NO_SUCH_METHOD,
    499: CANCELLED,
}


class CallsMiddleware:
    """Begins a call for whatever is asked, and ends it. The application finds it in the request's
    state, and its id goes into the answer."""

    def __init__(self, app: ASGIApp, calls: Calls) -> None:
        self._app = app
        self._calls = calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with self._begin(scope) as call:
            scope.setdefault("state", {})["call"] = call
            answer = _Answer(call, send)
            await self._app(scope, receive, answer.send)
            answer.over()

    def _begin(self, scope: Scope) -> Call:
        client = scope.get("client")
        method, path = scope["method"], scope["path"]
        attributes = {
            "http.request.method": method,
            "url.path": path,
            "url.scheme": scope["scheme"],
        }
        return self._calls.begin(
            "http",
            _method(path),
            client_of(client[0] if client else ""),
            Headers(scope=scope),
            attributes,
        )


def _method(path: str) -> str:
    page = path in _PAGES or path.startswith(_BELOW_PAGES)
    return _METHODS.get(path, PAGE if page else OTHER)


class _Answer:
    """What is sent for a call."""

    def __init__(self, call: Call, send: Send) -> None:
        self._call = call
        self._send = send
        self._whole = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            status = self._call.status = message["status"]
            MutableHeaders(scope=message)[REQUEST_ID] = self._call.request_id
            # A probe's 503 is its answer.
            if status >= 400 and self._call.method != HEALTH:
                other = InternalError.reason if status >= 500 else NO_SUCH_METHOD
                self._call.failed(_OUTCOMES.get(status, other))
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self._whole = True

    def over(self) -> None:
        if not self._whole:
            self._call.cut_off()
