"""Where Prometheus asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse

from metalm_service.metrics import Metrics


def add_metrics(
    app: FastAPI,
    metrics: Metrics,
    check: Callable[[Request], object] = lambda _: None,
    guarded: Callable[[dict[str, Any]], dict[str, Any]] = lambda operation: operation,
) -> None:
    """`GET /metrics`: the text format, or OpenMetrics where the Accept header names it.

    `check` may refuse a request; `guarded` says so in the OpenAPI document.
    """
    operation = {
        "summary": "Metrics, as Prometheus wants them",
        "responses": {200: {"content": {"application/openmetrics-text": {}}}},
    }

    @app.head("/metrics", include_in_schema=False)
    @app.get("/metrics", response_class=PlainTextResponse, **guarded(operation))
    async def scrape(request: Request) -> Response:
        check(request)
        content, media_type = metrics.exposition(request.headers.get("accept", ""))
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-store"})
