"""Errors as HTTP tells them (RFC 9457)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from metalm_proto import errors
from metalm_service.calls import NO_SUCH_METHOD


def add_problems(app: FastAPI) -> None:
    """Makes every error of the application a problem."""
    app.add_exception_handler(errors.MetaLMError, _of_error)
    app.add_exception_handler(HTTPException, _of_status)
    app.add_exception_handler(Exception, _of_defect)


def _problem(
    status: int, detail: str, headers: Mapping[str, str] | None = None, **others: Any
) -> Response:
    """An error as RFC 9457 has it; its `reason` is the error table's."""
    body = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail, **others}
    headers = {"Cache-Control": "no-store", **(headers or {})}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


async def _of_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.MetaLMError)
    others: dict[str, Any] = dict(error.details())
    headers = {}
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None:
        others["retry_after_s"] = retry_after_s
        headers["Retry-After"] = str(math.ceil(retry_after_s))
    request.state.call.failed(error.reason, str(error))
    if isinstance(error, errors.Unauthenticated):
        # RFC 6750, 3: an error code only where there were credentials.
        given = "authorization" in request.headers
        headers["WWW-Authenticate"] = 'Bearer error="invalid_token"' if given else "Bearer"
    return _problem(error.http_status, str(error), headers, reason=error.reason, **others)


async def _of_status(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # With its headers: a 405 must name the methods that are allowed.
    what = f"{request.method} {request.url.path}"
    if error.status_code in (404, 405):
        request.state.call.failed(NO_SUCH_METHOD, what)
    return _problem(error.status_code, what, error.headers)


async def _of_defect(request: Request, error: Exception) -> Response:
    # Starlette logs the cause and raises it again for the server.
    return await _of_error(
        request, errors.InternalError("the service failed; its log has the cause")
    )
