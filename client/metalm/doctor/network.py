"""Names, connections and TLS: what lies below the service."""

from __future__ import annotations

import errno
import math
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult

from metalm.credentials import Credentials
from metalm.doctor.findings import Finding, Stop
from metalm.transports import port_of, tls
from metalm.transports.base import CONNECT_S
from metalm_proto.errors import MetaLMError, NotTls, Untrusted, one_line

_RENEW_DAYS = 14
# OpenSSL's numbers (X509_V_ERR_…), which ssl hands on.
_EXPIRED, _WRONG_NAMES = (9, 10), (62, 64)


@dataclass(frozen=True, slots=True)
class Target:
    """An address of the host in a URL. `name`: as findings have it."""

    url: str
    parts: SplitResult
    address: str
    name: str

    @property
    def secure(self) -> bool:
        return self.parts.scheme in ("https", "grpcs")

    @property
    def place(self) -> tuple[str, int]:
        return self.address, port_of(self.parts)


def targets(url: str, parts: SplitResult) -> list[Target]:
    """All addresses of the URL's host. Raises Stop."""
    host = parts.hostname or ""
    try:
        found = socket.getaddrinfo(host, port_of(parts), type=socket.SOCK_STREAM)
    except OSError as error:
        raise Stop(
            "name",
            url,
            f"{host} cannot be looked up: {error.strerror or error}",
            "mend the name in the URL, or the name server that this machine asks",
        ) from error
    addresses = list(dict.fromkeys(str(place[4][0]) for place in found))
    several = len(addresses) > 1
    return [
        Target(url, parts, address, f"{url} ({address})" if several else url)
        for address in addresses
    ]


def connection(target: Target) -> Finding:
    """Raises Stop."""
    address, port = target.place
    began = time.monotonic()
    try:
        socket.create_connection(target.place, CONNECT_S).close()
    except OSError as error:
        said, mend = _unreachable(error, address, port)
        raise Stop("connection", target.name, said, mend) from error
    elapsed_ms = (time.monotonic() - began) * 1e3
    return Finding("connection", target.name, "ok", f"port {port} answers in {elapsed_ms:.1f} ms")


def _unreachable(error: OSError, address: str, port: int) -> tuple[str, str]:
    if error.errno == errno.ECONNREFUSED:
        return f"nothing listens on port {port} of {address}", (
            "start the service there, or mend the port in the URL: it is METALM_PORT for HTTP "
            "(8000 if not set) and METALM_GRPC_PORT for gRPC (50051); for other machines than "
            "its own the service listens only where METALM_HOST says so"
        )
    if isinstance(error, TimeoutError):
        return f"no answer from port {port} of {address} within {CONNECT_S:g} s", (
            "look for a firewall or a network policy on the way, and whether the machine is up"
        )
    said = f"no way to port {port} of {address}: {error.strerror or error}"
    return said, "look at this machine's network"


def handshake(target: Target, credentials: Credentials, timeout_s: float) -> Iterator[Finding]:
    """Who the server says it is. Raises Stop."""
    try:
        certificate, version = _shown(target, credentials, timeout_s, check_name=True)
    except ssl.SSLError as error:
        refused = tls.refusal(target.url, error)
        said = str(refused).removeprefix(f"{target.url}: ")
        mend = _mend(error, refused, target, credentials, timeout_s)
        raise Stop("TLS", target.name, said, mend) from error
    except OSError as error:
        said = f"the handshake ends early: {error.strerror or error}"
        mend = "look at the service's log; a proxy on the way may allow no TLS"
        raise Stop("TLS", target.name, said, mend) from error
    ends_at = ssl.cert_time_to_seconds(certificate["notAfter"])
    days = math.floor((ends_at - time.time()) / 86400)
    said = one_line(
        f"{version}, for {', '.join(_names(certificate))}, issued by {_issuer(certificate)}, "
        f"ends {certificate['notAfter']}"
    )
    soon = days < _RENEW_DAYS
    mend = f"have it renewed: it ends {_within(days)}" if soon else ""
    yield Finding("TLS", target.name, "note" if soon else "ok", said, mend)


def _within(days: int) -> str:
    return "within a day" if days < 1 else f"in {days} days"


def _mend(
    error: ssl.SSLError,
    refused: MetaLMError,
    target: Target,
    credentials: Credentials,
    timeout_s: float,
) -> str:
    code = getattr(error, "verify_code", None)
    if code in _EXPIRED:
        return "have the service's certificate renewed, and look at the clock of this machine"
    if code in _WRONG_NAMES:
        try:
            certificate, _ = _shown(target, credentials, timeout_s, check_name=False)
        except OSError:
            return "use the name that the certificate is for"
        names = one_line(", ".join(_names(certificate)))
        return f"use a name that the certificate is for ({names}), or have one issued for this"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "give the PEM file of the authority that issued it: --ca, or ca= in Python"
    if isinstance(refused, Untrusted):
        return "give a certificate that the service takes: --cert and --key, or cert= and key="
    if isinstance(refused, NotTls):
        plain = target.parts.scheme.removesuffix("s")
        return (
            f"use {plain}://, or give the service a certificate (METALM_TLS_CERT, METALM_TLS_KEY)"
        )
    return "look at the service's log"


def _shown(
    target: Target, credentials: Credentials, timeout_s: float, *, check_name: bool
) -> tuple[dict[str, Any], str]:
    """The server's certificate and the version of TLS. Raises OSError."""
    context = credentials.context()
    context.check_hostname = check_name
    if target.parts.scheme == "grpcs":
        context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(target.place, timeout_s) as plain,
        context.wrap_socket(plain, server_hostname=target.parts.hostname) as connection,
    ):
        return connection.getpeercert() or {}, connection.version() or ""


def _names(certificate: dict[str, Any]) -> list[str]:
    return [str(name) for _, name in certificate.get("subjectAltName", ())] or ["nobody"]


def _issuer(certificate: dict[str, Any]) -> str:
    named = {key: value for part in certificate.get("issuer", ()) for key, value in part}
    for key in ("commonName", "organizationName"):
        if key in named:
            return str(named[key])
    return "nobody"
