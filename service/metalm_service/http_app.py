"""The HTTP door: decode, handler, encode."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import xxhash
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse, StreamingResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from metalm_proto import errors, formats, query, wire
from metalm_proto.batch import Batch
from metalm_proto.spec import BatchRequest
from metalm_service import openapi
from metalm_service.handler import VERSION, Admission, CallerGoneError, Handler, State

_log = logging.getLogger(__name__)

Pairs = list[tuple[str, str]]
Parser = Callable[[Pairs], tuple[BatchRequest, bool]]


@dataclass(frozen=True, slots=True)
class Format:
    """A form of an answer: its name in `format=`, its media type, its encoder."""

    name: str
    media_type: str
    encode: Callable[[Batch], Sequence[wire.Buffer]]
    # Bytes of memory that encoding takes for each byte of arrays: lists of Python's integers and
    # strings are large.
    weight: int = 1
    tells_provenance: bool = True
    # Bytes of the whole answer, where they are known before it is generated.
    length: Callable[[BatchRequest], int | None] = lambda request: None


SAMPLE_FORMATS = (
    Format(
        "json",
        "application/json",
        lambda batch: [formats.sample_to_json(batch).encode()],
        weight=16,
    ),
    Format(
        "text",
        "text/plain; charset=utf-8",
        lambda batch: [formats.to_text(batch).encode()],
        weight=40,
        tells_provenance=False,
    ),
    Format(
        "npz",
        "application/zip",
        lambda batch: [formats.to_npz(batch)],
        weight=2,
        tells_provenance=False,
    ),
    Format("protobuf", wire.MEDIA_TYPE, wire.encode_batch),
)
BATCHES_FORMATS = (
    Format(
        "protobuf",
        wire.STREAM_MEDIA_TYPE,
        lambda batch: wire.length_prefixed(wire.encode_batch(batch)),
        length=wire.encoded_length,
    ),
    Format(
        "ndjson",
        "application/x-ndjson",
        lambda batch: [(formats.to_json(batch) + "\n").encode()],
        weight=16,
    ),
)


def create_app(handler: Handler, executor: Executor) -> FastAPI:
    """The application; batches are generated on `executor`."""
    app = FastAPIOffline(
        title="MetaLM data service",
        version=VERSION,
        description=openapi.DESCRIPTION,
        license_info={"name": "Apache-2.0"},
    )
    app.add_exception_handler(errors.MetaLMError, _problem_of_error)
    app.add_exception_handler(HTTPException, _problem_of_status)
    app.add_exception_handler(Exception, _problem_of_defect)

    async def answer(request: Request, parse: Parser, choices: Sequence[Format]) -> Response:
        pairs, chosen = _negotiate(request, choices)
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
        stream = _Stream(handler.admit(wanted, chosen.weight), chosen.encode, executor)
        gone = asyncio.create_task(_disconnected(request))
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
        return _StreamResponse(stream, first, media_type=chosen.media_type, headers=headers)

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
    @app.get("/readyz", **openapi.probe("Ready: kernels warm, not draining"))
    async def readyz() -> Response:
        return _now({"status": handler.state.value}, 200 if handler.state is State.READY else 503)

    @app.head("/version", include_in_schema=False)
    @app.get("/version", **openapi.probe("Versions"))
    async def version() -> Response:
        description = handler.describe(None).as_dict()
        return _now({name: description[name] for name in ("version", "generators", "engine")})

    return app


class _Stream:
    """The encoded batches of an admitted request; the next one is generated while one is sent."""

    def __init__(
        self,
        admission: Admission,
        encode: Callable[[Batch], Sequence[wire.Buffer]],
        executor: Executor,
    ) -> None:
        self._admission = admission
        self._batches = map(encode, admission.batches(lambda: not self._closed))
        self._executor = executor
        self._closed = False
        self._working = executor.submit(next, self._batches, ())

    async def following(self) -> Sequence[wire.Buffer]:
        """The next batch's buffers; none at the end, when the reservation is given back: the
        caller may ask again the moment that it has the last byte."""
        buffers = await asyncio.wrap_future(self._working)
        if buffers:
            self._working = self._executor.submit(next, self._batches, ())
        else:
            self._admission.close()
        return buffers

    def abandon(self) -> None:
        """Nobody wants what is being generated: `following` raises CallerGoneError soon."""
        self._closed = True

    def close(self) -> None:
        """Ends the work. The reservation is kept until the thread that fills its bytes is done."""
        self.abandon()
        self._working.add_done_callback(lambda _: self._admission.close())


class _StreamResponse(StreamingResponse):
    """Sends a stream whose first batch is here, and closes it whatever happens."""

    def __init__(self, stream: _Stream, first: Sequence[wire.Buffer], **others: Any) -> None:
        self._stream = stream
        super().__init__(self._chunks(first), **others)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except (asyncio.CancelledError, CallerGoneError):
            # The time to drain is over. The server closes the connection and says so in a line.
            _log.warning("a response was cut off in the middle: the service is ending")
        finally:
            self._stream.close()

    async def _chunks(self, buffers: Sequence[wire.Buffer]) -> AsyncIterator[wire.Buffer]:
        while buffers:
            for buffer in buffers:
                yield buffer
            buffers = await self._stream.following()


async def _disconnected(request: Request) -> None:
    """Returns when the caller has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


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


def _problem(
    status: int, detail: str, headers: Mapping[str, str] | None = None, **others: Any
) -> Response:
    """An error as RFC 9457 has it; its `reason` is the error table's."""
    body = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail, **others}
    headers = {"Cache-Control": "no-store", **(headers or {})}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


async def _problem_of_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.MetaLMError)
    others: dict[str, Any] = dict(error.details())
    headers = {}
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None:
        others["retry_after_s"] = retry_after_s
        headers["Retry-After"] = str(math.ceil(retry_after_s))
    return _problem(error.http_status, str(error), headers, reason=error.reason, **others)


async def _problem_of_status(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # With its headers: a 405 must name the methods that are allowed.
    return _problem(error.status_code, f"{request.method} {request.url.path}", error.headers)


async def _problem_of_defect(request: Request, error: Exception) -> Response:
    # Starlette logs the cause and raises it again for the server.
    return await _problem_of_error(
        request, errors.InternalError("the service failed; its log has the cause")
    )
