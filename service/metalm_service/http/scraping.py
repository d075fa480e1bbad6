"""Where Prometheus asks."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response

from metalm_service.metrics import Metrics


def add_metrics(app: FastAPI, metrics: Metrics) -> None:
    """`GET /metrics`: the text format, or OpenMetrics where the Accept header names it."""

    @app.head("/metrics", include_in_schema=False)
    @app.get("/metrics", summary="Metrics, as Prometheus wants them")
    async def scrape(request: Request) -> Response:
        content, media_type = metrics.exposition(request.headers.get("accept", ""))
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-store"})
