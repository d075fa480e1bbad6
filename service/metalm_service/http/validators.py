"""What a caller has already (RFC 9110, 13.1.2)."""

from __future__ import annotations

from fastapi import Request


def caller_has(request: Request, etag: str) -> bool:
    """Whether the caller has the answer with this ETag, or any."""
    header = request.headers.get("if-none-match", "")
    return bool({tag.strip().removeprefix("W/") for tag in header.split(",")} & {etag, "*"})
