"""Doors to a generator, chosen by the URL."""

from __future__ import annotations

from urllib.parse import urlsplit

from metalm.transports.base import Transport
from metalm_proto.errors import InvalidArgument

_BOUND = "inprocess:, http://HOST:PORT, https://HOST:PORT, grpc://HOST:PORT or grpcs://HOST:PORT"


def connect(url: str, *, timeout_s: float) -> Transport:
    """The door that `url` names. Nothing is sent yet. Raises InvalidArgument."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except (ValueError, AttributeError):
        raise InvalidArgument("url", url, _BOUND) from None
    if parts.scheme == "inprocess" and not (parts.netloc or parts.path or parts.query):
        from metalm.transports.in_process import InProcessTransport

        return InProcessTransport()
    if not parts.hostname or parts.query or parts.fragment or parts.username is not None:
        raise InvalidArgument("url", url, _BOUND)
    if parts.scheme in ("http", "https"):
        from metalm.transports.http import HttpTransport

        return HttpTransport(url, timeout_s=timeout_s)
    if parts.scheme in ("grpc", "grpcs") and port is not None and parts.path in ("", "/"):
        from metalm.transports.grpc import GrpcTransport

        return GrpcTransport(parts.netloc, secure=parts.scheme == "grpcs", timeout_s=timeout_s)
    raise InvalidArgument("url", url, _BOUND)
