"""The HTTP door: decode, handler, encode."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

import xxhash
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from metalm_proto import errors, formats, query, wire
from metalm_proto.batch import Batch
from metalm_proto.spec import GENERATORS, BatchRequest
from metalm_service import openapi
from metalm_service.core.engine import engine_name
from metalm_service.handler import VERSION, Admission, Handler, State

_log = logging.getLogger(__name__)

Pairs = list[tuple[str, str]]
Parser = Callable[[Pairs], tuple[BatchRequest, bool]]


@dataclass(frozen=True, slots=True)
class Format:
    """A form of an answer: its name in `format=`, its media type, its encoder."""

    name: str
    media_type: str
    encode: Callable[[Batch], Sequence[wire.Buffer]]
    # Bytes of the whole answer, where they are known before it is generated.
    length: Callable[[BatchRequest], int | None] = lambda request: None


SAMPLE_FORMATS = (
    Format("json", "application/json", lambda batch: [formats.sample_to_json(batch).encode()]),
    Format("text", "text/plain; charset=utf-8", lambda batch: [formats.to_text(batch).encode()]),
    Format("npz", "application/zip", lambda batch: [formats.to_npz(batch)]),
    Format("protobuf", wire.MEDIA_TYPE, wire.encode_batch),
)
BATCHES_FORMATS = (
    Format(
        "protobuf",
        wire.STREAM_MEDIA_TYPE,
        lambda batch: wire.length_prefixed(wire.encode_batch(batch)),
        wire.encoded_length,
    ),
    Format(
        "ndjson",
        "application/x-ndjson",
        lambda batch: [(formats.to_json(batch) + "\n").encode()],
    ),
)


def create_app(handler: Handler, executor: Executor) -> FastAPI:
    """The application; batches are generated on `executor`."""
    app = FastAPI(
        title="MetaLM data service",
        version=VERSION,
        description=openapi.DESCRIPTION,
        license_info={"name": "Apache-2.0"},
    )
    app.add_exception_handler(errors.MetaLMError, _problem_of_error)
    app.add_exception_handler(HTTPException, _problem_of_status)
    app.add_exception_handler(Exception, _problem_of_defect)

    def answer(request: Request, parse: Parser, choices: Sequence[Format]) -> Response:
        pairs, chosen = _negotiate(request, choices)
        wanted, seeded = parse(pairs)
        headers = _cache_headers(wanted, seeded, chosen)
        if seeded and headers["ETag"] in _etags(request):
            return Response(status_code=304, headers=headers)
        admission = handler.admit(wanted)
        return _BatchesResponse(admission, chosen, executor, headers)

    @app.get("/sample", **openapi.sample(SAMPLE_FORMATS))
    async def sample(request: Request) -> Response:
        return answer(request, query.parse_sample, SAMPLE_FORMATS)

    @app.get("/batches", **openapi.batches(BATCHES_FORMATS))
    async def batches(request: Request) -> Response:
        return answer(request, query.parse_batches, BATCHES_FORMATS)

    @app.get("/describe", **openapi.describe())
    async def describe(request: Request) -> Response:
        spec = query.parse_spec(request.query_params.multi_items())
        description = handler.describe(spec)
        return JSONResponse(description.as_dict())

    @app.get("/healthz", **openapi.probe("Alive"))
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", **openapi.probe("Ready: kernels warm, not draining"))
    async def readyz() -> JSONResponse:
        ready = handler.state is State.READY
        return JSONResponse({"status": handler.state.value}, 200 if ready else 503)

    @app.get("/version", **openapi.probe("Versions"))
    async def version() -> dict[str, Any]:
        return {"version": VERSION, "generators": GENERATORS, "engine": engine_name()}

    return app


class _BatchesResponse(StreamingResponse):
    """Streams an admitted request's batches, the next one generated while one is being sent.

    The admission is closed whatever happens, but not before the thread that fills its bytes is
    done with them.
    """

    def __init__(
        self, admission: Admission, chosen: Format, executor: Executor, headers: dict[str, str]
    ) -> None:
        self._admission = admission
        self._batches = admission.batches(self._proceed)
        self._encode = chosen.encode
        self._executor = executor
        self._working: Future[Sequence[wire.Buffer] | None] | None = None
        self._gone = False
        length = chosen.length(admission.request)
        if length is not None:
            headers = {**headers, "Content-Length": str(length)}
        super().__init__(self._chunks(), media_type=chosen.media_type, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._gone = True
            if self._working is None:
                self._admission.close()
            else:
                self._working.add_done_callback(lambda _: self._admission.close())

    async def _chunks(self) -> AsyncIterator[wire.Buffer]:
        self._working = self._executor.submit(self._following)
        while (buffers := await asyncio.wrap_future(self._working)) is not None:
            self._working = self._executor.submit(self._following)
            for buffer in buffers:
                yield buffer

    def _following(self) -> Sequence[wire.Buffer] | None:
        batch = next(self._batches, None)
        return None if batch is None else self._encode(batch)

    def _proceed(self) -> None:
        if self._gone:
            raise _CallerGoneError


class _CallerGoneError(Exception):
    """There is nobody left to generate for."""


def _negotiate(request: Request, choices: Sequence[Format]) -> tuple[Pairs, Format]:
    """The query without `format`, and the format it or the Accept header asks for."""
    pairs = request.query_params.multi_items()
    names = [text for name, text in pairs if name == "format"]
    rest = [(name, text) for name, text in pairs if name != "format"]
    if not names:
        return rest, _accepted(request.headers.get("accept", "*/*"), choices)
    for choice in choices:
        if names == [choice.name]:
            return rest, choice
    bound = "one of " + ", ".join(choice.name for choice in choices)
    raise errors.InvalidArgument("format", names[0] if len(names) == 1 else names, bound)


def _accepted(header: str, choices: Sequence[Format]) -> Format:
    """The choice with the highest quality in an Accept header (RFC 9110, 12.5.1), else the first.

    Only types that are named count: a wildcard asks for the default.
    """
    best, best_quality = choices[0], 0.0
    for part in header.split(","):
        media_type, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
        for choice in choices:
            matches = choice.media_type.partition(";")[0] == media_type
            if (matches or (media_type == "*/*" and choice is choices[0])) and (
                quality > best_quality
            ):
                best, best_quality = choice, quality
    return best


def _cache_headers(request: BatchRequest, seeded: bool, chosen: Format) -> dict[str, str]:
    if not seeded:
        return {"Cache-Control": "no-store"}
    # The protobuf bytes are fixed by the generator's name; the other forms by this version too.
    form = (chosen.name, VERSION)
    name = xxhash.xxh3_128_hexdigest(repr((query.batches_pairs(request), form)).encode())
    return {
        "Cache-Control": "public, max-age=31536000, immutable",
        "ETag": f'"{name}"',
        "Vary": "Accept",
    }


def _etags(request: Request) -> set[str]:
    header = request.headers.get("if-none-match", "")
    return {tag.strip().removeprefix("W/") for tag in header.split(",")}


def _problem(status: int, title: str, detail: str, **others: Any) -> JSONResponse:
    """An error as RFC 9457 has it."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, **others}
    return JSONResponse(body, status, media_type="application/problem+json")


async def _problem_of_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.MetaLMError)
    retry_after_s = getattr(error, "retry_after_s", None)
    others = {} if retry_after_s is None else {"retry_after_s": retry_after_s}
    response = _problem(
        error.http_status,
        type(error).__name__,
        str(error),
        reason=error.reason,
        **error.details(),
        **others,
    )
    response.headers["Cache-Control"] = "no-store"
    if retry_after_s is not None:
        response.headers["Retry-After"] = str(math.ceil(retry_after_s))
    return response


async def _problem_of_status(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _problem(error.status_code, error.detail, f"{request.method} {request.url.path}")


async def _problem_of_defect(request: Request, error: Exception) -> Response:
    # Starlette logs the cause and raises it again for the server.
    return await _problem_of_error(
        request, errors.InternalError("the service failed; its log has the cause")
    )
