"""The HTTP door: decode, handler, encode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

import xxhash
from fastapi import FastAPI, Request, Response

from metalm_proto import errors, query
from metalm_proto.spec import BatchRequest
from metalm_service.calls import Call, Calls
from metalm_service.floors.desk import FloorsDesk
from metalm_service.handler import VERSION, CallerGoneError, Handler
from metalm_service.http import openapi
from metalm_service.http.admin import add_probes, now
from metalm_service.http.ahead import Ahead
from metalm_service.http.calls import CallsMiddleware
from metalm_service.http.docs import add_docs
from metalm_service.http.floors import add_floors
from metalm_service.http.formats import BATCHES_FORMATS, SAMPLE_FORMATS, Format, Pairs, negotiate
from metalm_service.http.page import add_page
from metalm_service.http.problems import add_problems
from metalm_service.http.scraping import add_metrics
from metalm_service.http.streaming import BatchResponse, first
from metalm_service.http.validators import caller_has
from metalm_service.metrics import Metrics
from metalm_service.tokens import Tokens

Parser = Callable[[Pairs], tuple[BatchRequest, bool]]


def create_app(
    handler: Handler,
    executor: Executor,
    calls: Calls,
    metrics: Metrics,
    tokens: Tokens,
    desk: FloorsDesk,
) -> CallsMiddleware:
    """The application; batches are generated on `executor`, and floors had from
    `desk`, for those who have one of `tokens`."""
    app = FastAPI(
        title="MetaLM data service",
        version=VERSION,
        description=openapi.DESCRIPTION,
        license_info={"name": "Apache-2.0"},
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json" if handler.config.docs else None,
    )
    add_problems(app)
    config = handler.config
    guarded = openapi.guarded if tokens.required else _open

    def identified(request: Request) -> Call:
        """Raises Unauthenticated."""
        call: Call = request.state.call
        call.client = tokens.client(request.headers.getlist("authorization"), call.client)
        return call

    async def answer(request: Request, parse: Parser, choices: Sequence[Format]) -> Response:
        call = identified(request)
        pairs, chosen = negotiate(request, choices)
        wanted, seeded = parse(pairs)
        if wanted.provenance and not chosen.tells_provenance:
            bound = f"false with format {chosen.name}, which has no room for it"
            raise errors.InvalidArgument("provenance", True, bound)
        headers = _headers(request, wanted, seeded, chosen, shared=not tokens.required)
        if seeded and caller_has(request, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        length = chosen.length(wanted)
        if length is not None:
            headers["Content-Length"] = str(length)
        if request.method == "HEAD":
            return Response(media_type=chosen.media_type, headers=headers)
        stream = Ahead(handler.admit(call, wanted, chosen.encoding), chosen, executor)
        try:
            # Before the status is sent: what goes wrong here can still be told.
            head = await first(stream, request)
        except CallerGoneError:
            stream.close()
            return Response(status_code=499)  # for nobody; nginx's number for it
        except BaseException:
            stream.close()
            raise
        if wanted.samples <= wanted.batch_size:
            headers["Content-Length"] = str(sum(map(len, head.buffers)) if head else 0)
        return BatchResponse(stream, head, media_type=chosen.media_type, headers=headers)

    @app.head("/sample", include_in_schema=False)
    @app.get("/sample", **guarded(openapi.sample(SAMPLE_FORMATS)))
    async def sample(request: Request) -> Response:
        return await answer(request, query.parse_sample, SAMPLE_FORMATS)

    @app.head("/batches", include_in_schema=False)
    @app.get("/batches", **guarded(openapi.batches(BATCHES_FORMATS)))
    async def batches(request: Request) -> Response:
        return await answer(request, query.parse_batches, BATCHES_FORMATS)

    # Paths are tried in this order: those above are asked for most.
    add_probes(app, handler)
    if config.admin_port is None:
        add_metrics(app, metrics, identified, guarded)
    if config.page:
        add_page(app, docs=config.docs, metrics=config.admin_port is None)
    if config.docs:
        add_docs(app)
    add_floors(app, desk, identified, guarded, "private" if tokens.required else "public")

    @app.head("/describe", include_in_schema=False)
    @app.get("/describe", **guarded(openapi.describe()))
    async def describe(request: Request) -> Response:
        identified(request)
        spec = query.parse_spec(request.query_params.multi_items())
        return now(handler.describe(spec).as_dict())

    @app.head("/version", include_in_schema=False)
    @app.get("/version", **guarded(openapi.version()))
    async def version(request: Request) -> Response:
        identified(request)
        description = handler.describe(None).as_dict()
        return now({name: description[name] for name in ("version", "generators", "engine")})

    return CallsMiddleware(app, calls)


def _open(operation: dict[str, Any]) -> dict[str, Any]:
    return operation


def _headers(
    request: Request, wanted: BatchRequest, seeded: bool, chosen: Format, *, shared: bool
) -> dict[str, str]:
    """What may be cached, and for how long; for a drawn seed, where the same answer can be had."""
    if not seeded:
        again = request.url.include_query_params(seed=wanted.seed)
        return {"Cache-Control": "no-store", "Content-Location": f"{again.path}?{again.query}"}
    # The protobuf bytes are fixed by the generator's name; the other forms by this version too.
    form = (chosen.media_type, VERSION)
    name = xxhash.xxh3_128_hexdigest(repr((query.batches_pairs(wanted), form)).encode())
    return {
        # A cache that serves everybody would serve those without a token, too.
        "Cache-Control": f"{'public' if shared else 'private'}, max-age=31536000, immutable",
        "ETag": f'"{name}"',
        "Vary": "Accept",
    }
