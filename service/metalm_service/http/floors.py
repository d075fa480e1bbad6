"""Floors at the HTTP door."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import xxhash
from fastapi import FastAPI, Request, Response

from metalm_proto import query
from metalm_proto.errors import Draining
from metalm_proto.floors import FloorsRequest
from metalm_service.floors.desk import FloorsDesk
from metalm_service.handler import VERSION
from metalm_service.http import openapi
from metalm_service.http.streaming import disconnected
from metalm_service.http.validators import caller_has

_FRESH_S = 86400
"""A later version may round otherwise."""


def add_floors(
    app: FastAPI,
    desk: FloorsDesk,
    identify: Callable[[Request], object],
    guarded: Callable[[dict[str, Any]], dict[str, Any]],
    visibility: str,
) -> None:
    """`GET /floors`. `identify` may refuse a request; `guarded` says so in the OpenAPI document.
    `visibility`: public, or private where a cache must not show one caller's answer to another."""

    @app.head("/floors", include_in_schema=False)
    @app.get("/floors", **guarded(openapi.floors()))
    async def floors(request: Request) -> Response:
        identify(request)
        wanted = query.parse_floors(request.query_params.multi_items())
        desk.check(wanted)
        name = xxhash.xxh3_128_hexdigest(repr((wanted, VERSION)).encode())
        headers = {
            "Cache-Control": f"{visibility}, max-age={_FRESH_S}",
            "ETag": f'"{name}"',
        }
        if caller_has(request, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        if request.method == "HEAD":
            return Response(media_type="application/json", headers=headers)
        answer = await _answer(desk, wanted, request)
        if answer is None:
            return Response(status_code=499)  # for nobody; nginx's number for it
        return Response(answer, media_type="application/json", headers=headers)


async def _answer(desk: FloorsDesk, wanted: FloorsRequest, request: Request) -> bytes | None:
    """None where the caller has gone. Raises what FloorsDesk.ask does."""
    promised = desk.ask(wanted)
    answer: asyncio.Future[Any] = asyncio.wrap_future(promised)
    # Also where nobody is left to hear of it.
    answer.add_done_callback(lambda done: done.exception())
    gone: asyncio.Future[Any] = asyncio.create_task(disconnected(request))
    try:
        # Others may wait for the same.
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        return bytes(await answer) if answer.done() else None
    except asyncio.CancelledError as error:
        # Another replica has time.
        raise Draining("the server is shutting down", 0.0) from error
    finally:
        gone.cancel()
        desk.leave(wanted, promised)
