"""What is asked of a server by those who run it."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from metalm_service.handler import VERSION, Handler, State
from metalm_service.http import openapi
from metalm_service.http.problems import add_problems


def create_admin_app(handler: Handler) -> FastAPI:
    """The application of a port of its own."""
    app = FastAPI(title="MetaLM data service", version=VERSION, openapi_url=None)
    add_problems(app)
    add_probes(app, handler)
    return app


def add_probes(app: FastAPI, handler: Handler) -> None:
    """Health, which nobody needs a token for."""

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", **openapi.probe("Alive"))
    async def healthz() -> Response:
        return now({"status": "alive"})

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", **openapi.probe("Ready: kernels warm, not draining"))
    async def readyz() -> Response:
        return now({"status": handler.state.value}, 200 if handler.state is State.READY else 503)


def now(content: dict[str, Any], status: int = 200) -> Response:
    """An answer about this server at this moment, which no cache may keep."""
    return JSONResponse(content, status, headers={"Cache-Control": "no-store"})
