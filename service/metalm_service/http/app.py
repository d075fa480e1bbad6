"""The HTTP door: decode, handler, encode."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

import xxhash
from fastapi import Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi_offline import FastAPIOffline

from metalm_proto import errors, query
from metalm_proto.spec import BatchRequest
from metalm_service.calls import Call, Calls
from metalm_service.handler import VERSION, CallerGoneError, Handler, State
from metalm_service.http import openapi
from metalm_service.http.calls import CallsMiddleware
from metalm_service.http.formats import BATCHES_FORMATS, SAMPLE_FORMATS, Format, Pairs, negotiate
from metalm_service.http.problems import add_problems
from metalm_service.http.scraping import add_metrics
from metalm_service.http.streaming import BatchResponse, Encoded, disconnected
from metalm_service.metrics import Metrics

Parser = Callable[[Pairs], tuple[BatchRequest, bool]]


def create_app(
    handler: Handler, executor: Executor, calls: Calls, metrics: Metrics
) -> CallsMiddleware:
    """The application; batches are generated on `executor`."""
    app = FastAPIOffline(
        title="MetaLM data service",
        version=VERSION,
        description=openapi.DESCRIPTION,
        license_info={"name": "Apache-2.0"},
    )
    add_problems(app)
    add_metrics(app, metrics)

    async def answer(request: Request, parse: Parser, choices: Sequence[Format]) -> Response:
        call: Call = request.state.call
        pairs, chosen = negotiate(request, choices)
        wanted, seeded = parse(pairs)
        if wanted.provenance and not chosen.tells_provenance:
            bound = f"false with format {chosen.name}, which has no room for it"
            raise errors.InvalidArgument("provenance", True, bound)
        headers = _headers(request, wanted, seeded, chosen)
        if seeded and _etags(request) & {headers["ETag"], "*"}:
            return Response(status_code=304, headers=headers)
        length = chosen.length(wanted)
        if length is not None:
            headers["Content-Length"] = str(length)
        if request.method == "HEAD":
            return Response(media_type=chosen.media_type, headers=headers)
        stream = Encoded(handler.admit(call, wanted, chosen.encoding), chosen.encode, executor)
        gone = asyncio.create_task(disconnected(request))
        # The first batch may take long, and whoever wants it may not.
        gone.add_done_callback(lambda task: None if task.cancelled() else stream.abandon())
        try:
            # Before the status is sent: what goes wrong here can still be told.
            first = await stream.following()
        except CallerGoneError:
            stream.close()
            return Response(status_code=499)  # for nobody; nginx's number for it
        except BaseException:
            stream.close()
            raise
        finally:
            gone.cancel()
        if wanted.samples <= wanted.batch_size:
            headers["Content-Length"] = str(sum(map(len, first)))
        return BatchResponse(stream, first, media_type=chosen.media_type, headers=headers)

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse("docs")

    @app.head("/sample", include_in_schema=False)
    @app.get("/sample", **openapi.sample(SAMPLE_FORMATS))
    async def sample(request: Request) -> Response:
        return await answer(request, query.parse_sample, SAMPLE_FORMATS)

    @app.head("/batches", include_in_schema=False)
    @app.get("/batches", **openapi.batches(BATCHES_FORMATS))
    async def batches(request: Request) -> Response:
        return await answer(request, query.parse_batches, BATCHES_FORMATS)

    @app.head("/describe", include_in_schema=False)
    @app.get("/describe", **openapi.describe())
    async def describe(request: Request) -> Response:
        spec = query.parse_spec(request.query_params.multi_items())
        return _now(handler.describe(spec).as_dict())

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", **openapi.probe("Alive"))
    async def healthz() -> Response:
        return _now({"status": "alive"})

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", **openapi.probe("Ready: kernels warm, not draining", 503))
    async def readyz() -> Response:
        return _now({"status": handler.state.value}, 200 if handler.state is State.READY else 503)

    @app.head("/version", include_in_schema=False)
    @app.get("/version", **openapi.version())
    async def version() -> Response:
        description = handler.describe(None).as_dict()
        return _now({name: description[name] for name in ("version", "generators", "engine")})

    return CallsMiddleware(app, calls)


def _headers(
    request: Request, wanted: BatchRequest, seeded: bool, chosen: Format
) -> dict[str, str]:
    """What may be cached, and for how long; for a drawn seed, where the same answer can be had."""
    if not seeded:
        again = request.url.include_query_params(seed=wanted.seed)
        return {"Cache-Control": "no-store", "Content-Location": f"{again.path}?{again.query}"}
    # The protobuf bytes are fixed by the generator's name; the other forms by this version too.
    form = (chosen.media_type, VERSION)
    name = xxhash.xxh3_128_hexdigest(repr((query.batches_pairs(wanted), form)).encode())
    return {
        "Cache-Control": "public, max-age=31536000, immutable",
        "ETag": f'"{name}"',
        "Vary": "Accept",
    }


def _now(content: dict[str, Any], status: int = 200) -> Response:
    """An answer about this server at this moment, which no cache may keep."""
    return JSONResponse(content, status, headers={"Cache-Control": "no-store"})


def _etags(request: Request) -> set[str]:
    header = request.headers.get("if-none-match", "")
    return {tag.strip().removeprefix("W/") for tag in header.split(",")}
