"""Both doors in one process, under one owner of signals."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import uvicorn

from metalm_service.calls import Calls
from metalm_service.config import ServerConfig
from metalm_service.floors.desk import FloorsDesk
from metalm_service.grpc.server import GrpcServer
from metalm_service.handler import VERSION, Handler
from metalm_service.http.admin import create_admin_app
from metalm_service.http.app import create_app
from metalm_service.http.docs import HEADERS
from metalm_service.http.protocol import BACKLOG, ConnectionLimits, GuardedProtocol, watch
from metalm_service.logs import CallLog
from metalm_service.metrics import Metrics
from metalm_service.tls import Certificates
from metalm_service.tokens import Tokens
from metalm_service.tracing import tracing

_SHUTDOWN_S = 1.0
"""What the other side has to end TLS properly; meanwhile its connection counts."""
_OPTIONS: dict[str, Any] = {
    "log_config": None,
    "access_log": False,
    "server_header": False,
    # Whoever says that he asks for another is not believed.
    "proxy_headers": False,
    "headers": HEADERS,
    "backlog": BACKLOG,
    "ws": "none",
}


def serve(config: ServerConfig, announce: Callable[[str], None] = print) -> None:
    """Serves until SIGTERM or SIGINT, then drains: new requests are refused, running ones get
    `config.drain_timeout_s`; a second signal ends them at once. `announce` gets the line that says
    both addresses once it is ready.

    Raises OSError if an address cannot be bound, and InvalidArgument for a file of the
    configuration that is not as it should be, or traces that cannot be made.
    """
    asyncio.run(_serve(config, announce))


async def _serve(config: ServerConfig, announce: Callable[[str], None]) -> None:
    tokens = Tokens(config.token_file, config.tokens)
    certificates = Certificates.of(config)
    handler = Handler(config)
    metrics = Metrics(handler)
    traces = tracing(os.environ)
    calls = Calls(metrics, CallLog(), *filter(None, [traces]))
    async with _administered(handler, calls, metrics) as address:

        def told(line: str) -> None:
            announce(f"{line}, admin {address}" if address else line)

        await _serve_doors(handler, calls, metrics, tokens, certificates, told)
    if traces is not None:
        await asyncio.to_thread(traces.close)


async def _serve_doors(
    handler: Handler,
    calls: Calls,
    metrics: Metrics,
    tokens: Tokens,
    certificates: Certificates | None,
    announce: Callable[[str], None],
) -> None:
    config = handler.config
    listener = _listen(config.host, config.port)
    # gRPC does not say why it cannot listen, and prints lines of its own: so this is asked before.
    _listen(config.host, config.grpc_port).close()
    # A thread for each request, as gRPC has: whose turn it is at the cores, the handler says.
    executor = ThreadPoolExecutor(config.max_requests, "generate")
    desk = FloorsDesk(config.max_floors_cpu_s)
    grpc_server = GrpcServer(handler, calls, tokens, certificates)
    http_server = _HttpServer(
        uvicorn.Config(
            create_app(handler, executor, calls, metrics, tokens, desk),
            timeout_graceful_shutdown=config.drain_timeout_s,
            http=_protocol(config),
            **_OPTIONS,
        ),
        certificates,
        config.request_timeout_s,
    )
    signalled, again = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(
            number, lambda: again.set() if signalled.is_set() else signalled.set()
        )
    grpc_server.start()
    serving = asyncio.create_task(http_server.serve(sockets=[listener]))
    warming = asyncio.create_task(asyncio.to_thread(handler.warm))
    stopping = asyncio.create_task(signalled.wait())
    try:
        await asyncio.wait({serving, warming, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if warming.done():
            warming.result()
            grpc_server.set_serving(True)
            host, s = _written(config.host), "" if certificates is None else "s"
            announce(
                f"metalm {VERSION} ready: http{s}://{host}:{listener.getsockname()[1]} "
                f"grpc{s}://{host}:{grpc_server.port} ({handler.describe(None).engine} engine)"
            )
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            raise RuntimeError("the HTTP server ended by itself")
    finally:
        handler.drain()
        drained = grpc_server.stop(config.drain_timeout_s)
        http_server.should_exit = True
        forced: asyncio.Task[Any] = asyncio.create_task(again.wait())
        draining = asyncio.create_task(asyncio.to_thread(drained.wait))
        ending: asyncio.Task[Any] = asyncio.create_task(asyncio.wait({serving, draining}))
        await asyncio.wait({ending, forced}, return_when=asyncio.FIRST_COMPLETED)
        handler.abandon()
        await asyncio.to_thread(desk.close)
        if not ending.done():
            http_server.force_exit = True
            grpc_server.stop(0)
        await ending
        for task in (forced, stopping):
            task.cancel()
        # Threads that still generate for nobody look up within milliseconds. (A compiler does not:
        # the end of a start waits for it.)
        executor.shutdown(wait=False, cancel_futures=True)


def _protocol(config: ServerConfig) -> Any:
    """What uvicorn makes its connections with: within the limits of the configuration, as far as
    the system has file descriptors for them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = config.max_connections
    if hard != resource.RLIM_INFINITY:
        # Every connection takes one, and the soft limit is often a thousand.
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        most = min(most, hard // 2)
    limits = ConnectionLimits(
        max_connections=most,
        request_timeout_s=config.request_timeout_s,
        stall_timeout_s=config.stall_timeout_s,
    )
    return partial(GuardedProtocol, limits=limits)


@contextlib.asynccontextmanager
async def _administered(handler: Handler, calls: Calls, metrics: Metrics) -> AsyncIterator[str]:
    """Serves the port of its own until all else is over, if there is to be one; its URL."""
    config = handler.config
    if config.admin_port is None:
        yield ""
        return
    listener = _listen(config.host, config.admin_port)
    server = _HttpServer(
        uvicorn.Config(
            create_admin_app(handler, calls, metrics),
            timeout_graceful_shutdown=1,
            http=_protocol(config),
            **_OPTIONS,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://{_written(config.host)}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


class _HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers, which would stop the process under the drain."""

    def __init__(
        self,
        config: uvicorn.Config,
        certificates: Certificates | None = None,
        handshake_timeout_s: float | None = None,
    ) -> None:
        super().__init__(config)
        config.load()
        config.ssl = None if certificates is None else certificates.http_context()
        self._handshake_timeout_s = None if certificates is None else handshake_timeout_s

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        watching = asyncio.create_task(watch(self.server_state.connections))
        try:
            await super().serve(sockets)
        finally:
            watching.cancel()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens itself: uvicorn gives a handshake a minute, and has no setting for it."""
        await super().startup(sockets=[])
        loop = asyncio.get_running_loop()
        config = self.config

        def connected() -> asyncio.Protocol:
            return config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn calls it
                config=config,
                server_state=self.server_state,
                app_state=self.lifespan.state,
                _loop=loop,
            )

        for listener in sockets or ():
            self.servers.append(
                await loop.create_server(
                    connected,
                    sock=listener,
                    ssl=config.ssl,
                    backlog=config.backlog,
                    ssl_handshake_timeout=self._handshake_timeout_s,
                    ssl_shutdown_timeout=None if config.ssl is None else _SHUTDOWN_S,
                )
            )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _written(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol named: asyncio switches Nagle's algorithm off only where it sees TCP, and an
    # answer in two writes would wait 40 ms for the reader's delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return listener
