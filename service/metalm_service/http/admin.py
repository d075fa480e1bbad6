"""What is asked of a server by those who run it."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from metalm_service.calls import Calls
from metalm_service.handler import VERSION, Handler, State
from metalm_service.http import openapi
from metalm_service.http.calls import CallsMiddleware
from metalm_service.http.problems import add_problems
from metalm_service.http.scraping import add_metrics
from metalm_service.metrics import Metrics


def create_admin_app(handler: Handler, calls: Calls, metrics: Metrics) -> CallsMiddleware:
    """The application of a port of its own."""
    app = FastAPI(title="MetaLM data service", version=VERSION, openapi_url=None)
    add_problems(app)
    add_probes(app, handler)
    add_metrics(app, metrics)
    return CallsMiddleware(app, calls)


def add_probes(app: FastAPI, handler: Handler) -> None:
    """Health, which nobody needs a token for."""

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", **openapi.probe("Alive"))
    async def healthz() -> Response:
        return now({"status": "alive"})

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", **openapi.probe("Ready: kernels warm, not draining", 503))
    async def readyz() -> Response:
        return now({"status": handler.state.value}, 200 if handler.state is State.READY else 503)


def now(content: dict[str, Any], status: int = 200) -> Response:
    """An answer about this server at this moment, which no cache may keep."""
    return JSONResponse(content, status, headers={"Cache-Control": "no-store"})
