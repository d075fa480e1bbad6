"""Doors to a generator, chosen by the URL."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from metalm.credentials import NOBODY, Credentials
from metalm.transports.base import Transport
from metalm_proto.errors import InvalidArgument

_PORTS = {"http": 80, "https": 443}
_BOUND = "inprocess:, http://HOST:PORT, https://HOST:PORT, grpc://HOST:PORT or grpcs://HOST:PORT"


def checked_url(url: object) -> SplitResult:
    """The parts of a URL that names a door. Raises InvalidArgument."""
    try:
        if not isinstance(url, str):
            raise ValueError
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        shown = "***" if isinstance(url, str) and "@" in url else url
        raise InvalidArgument("url", shown, _BOUND) from None
    if parts.scheme == "inprocess":
        right = not (parts.netloc or parts.path or parts.query)
    else:
        right = bool(parts.hostname) and not (
            parts.query or parts.fragment or parts.username is not None
        )
        if parts.scheme in ("grpc", "grpcs"):
            right = right and port is not None and parts.path in ("", "/")
        elif parts.scheme not in ("http", "https"):
            right = False
    if not right:
        raise InvalidArgument("url", _without_secrets(parts), _BOUND)
    return parts


def _without_secrets(parts: SplitResult) -> str:
    """The URL, but for where people write passwords and tokens."""
    place = parts.netloc.rpartition("@")[2]
    shown = "***@" * ("@" in parts.netloc) + place
    return parts._replace(netloc=shown, query="***" * bool(parts.query), fragment="").geturl()


def port_of(parts: SplitResult) -> int:
    """The port that a checked URL of a service means."""
    return parts.port or _PORTS[parts.scheme]


def connect(
    url: str,
    *,
    timeout_s: float,
    address: str | None = None,
    credentials: Credentials = NOBODY,
) -> Transport:
    """The door that `url` names, at the given one of its host's addresses if there is one.

    Nothing is sent yet. Raises InvalidArgument.
    """
    parts = checked_url(url)
    credentials.check(url, parts)
    if parts.scheme == "inprocess":
        from metalm.transports.in_process import InProcessTransport

        return InProcessTransport()
    if parts.scheme in ("http", "https"):
        from metalm.transports.http import HttpTransport

        return HttpTransport(url, timeout_s=timeout_s, address=address, credentials=credentials)
    from metalm.transports import grpc, relay

    door = relay.RelayTransport if grpc.used_by_another_process() else grpc.GrpcTransport
    return door(
        target=parts.netloc,
        secure=parts.scheme == "grpcs",
        timeout_s=timeout_s,
        address=address,
        credentials=credentials,
    )
