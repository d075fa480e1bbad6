"""/: the explorer, a page of files that are read once and belong to no other site."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

import xxhash
from fastapi import FastAPI, Request, Response

import metalm_proto
from metalm_proto.query import SAMPLE_QUERY
from metalm_service.handler import VERSION
from metalm_service.http.validators import caller_has

_WEB = Path(__file__).parent.parent / "web"
# Those of the client's plots, too.
_PUBLISHED = Path(metalm_proto.__file__).parent / "published_curves.json"
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
}
_PLACE = re.compile(r"\{\{(\w+)\.(\w+)\}\}")


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str

    @property
    def etag(self) -> str:
        return f'"{xxhash.xxh3_128_hexdigest(self.content)}"'


def add_page(app: FastAPI, *, docs: bool, metrics: bool) -> None:
    """`GET /`, and its files under `/page/`. Browsers ask each time whether theirs is the same
    still: no page is ever half of an older version. `docs`, `metrics`: whether there are such
    pages to point to."""
    service = {
        "version": VERSION,
        "no_docs": "" if docs else " hidden",
        "no_metrics": "" if metrics else " hidden",
    }
    files = {f"/page/{path.name}": _read(path, service) for path in (*_WEB.iterdir(), _PUBLISHED)}
    files["/"] = files.pop("/page/index.html")
    for path, file in files.items():
        _serve(app, path, file)


def _serve(app: FastAPI, path: str, file: _File) -> None:
    headers = {"ETag": file.etag, "Cache-Control": "no-cache"}

    @app.head(path, include_in_schema=False)
    @app.get(path, include_in_schema=False)
    async def serve(request: Request) -> Response:
        if caller_has(request, file.etag):
            return Response(status_code=304, headers=headers)
        content = b"" if request.method == "HEAD" else file.content
        length = {"Content-Length": str(len(file.content))}
        return Response(content, media_type=file.media_type, headers=headers | length)


def _read(path: Path, service: Mapping[str, str]) -> _File:
    """A file; in the page itself, `{{FIELD.ATTRIBUTE}}` stands for a bound or a default of a
    parameter, which are written once, and `{{service.NAME}}` for what the service says."""

    def told(place: re.Match[str]) -> str:
        if place[1] == "service":
            return service[place[2]]
        (field,) = (field for field in SAMPLE_QUERY if field.name == place[1])
        value = getattr(field, place[2])
        return "" if value is None else escape(str(value))

    content = path.read_bytes()
    if path.suffix == ".html":
        content = _PLACE.sub(told, content.decode()).encode()
    return _File(content, _MEDIA_TYPES[path.suffix])
