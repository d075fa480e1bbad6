"""A question to a service, and what to do about what comes in place of an answer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import TypeVar

from metalm.credentials import NOBODY, Credentials
from metalm.doctor.findings import Stop
from metalm.doctor.network import Target
from metalm.transports import connect
from metalm_proto.errors import (
    CorruptBatch,
    Draining,
    InternalError,
    InvalidArgument,
    LimitExceeded,
    MetaLMError,
    Overloaded,
    Starting,
    Unauthenticated,
    Untrusted,
)

T = TypeVar("T")

BRIEFLY_S = 3.0
_OTHERS = {
    "http": ("https", "grpc", "grpcs"),
    "https": ("http", "grpcs", "grpc"),
    "grpc": ("grpcs", "http", "https"),
    "grpcs": ("grpc", "https", "http"),
}


def asked(check: str, target: Target, credentials: Credentials, ask: Callable[[], T]) -> T:
    """The answer. Raises Stop, with what to do, for whatever came in its place."""
    try:
        return ask()
    except MetaLMError as error:
        if check == "service" and (other := _better_url(target, credentials, error)):
            mend = f"use {other}: that answers there"
        else:
            mend = _mend(error, credentials)
        kind = "token" if isinstance(error, Unauthenticated) else check
        kind = "TLS" if isinstance(error, Untrusted) else kind
        kind = "bytes" if isinstance(error, CorruptBatch) else kind
        said = str(error).removeprefix(f"{target.url}: ")
        raise Stop(kind, target.name, said, mend) from error


def _better_url(target: Target, credentials: Credentials, error: MetaLMError) -> str | None:
    """The URL of another door or with TLS that a service answers at, at the very same port."""
    if isinstance(error, (InvalidArgument, Unauthenticated, Starting, Draining, Overloaded)):
        return None
    for scheme in _OTHERS[target.parts.scheme]:
        host = target.parts.netloc
        if target.parts.port is None:
            host = f"{host}:{target.place[1]}"
        url = f"{scheme}://{host}"
        # No token is shown to what may be somebody else.
        shown = NOBODY if credentials.ca is None else Credentials(ca=credentials.ca)
        with closing(
            connect(url, timeout_s=BRIEFLY_S, address=target.address, credentials=shown)
        ) as door:
            try:
                door.describe(None)
            except Unauthenticated:
                return url
            except MetaLMError:
                continue
            return url
    return None


def _mend(error: MetaLMError, credentials: Credentials) -> str:
    if isinstance(error, Unauthenticated):
        if isinstance(error, Untrusted):
            return "give a certificate that the service takes: --cert and --key, or cert= and key="
        if credentials.token is None:
            return "give a token: METALM_TOKEN or --token-file, or token= in Python"
        return "ask who runs the service for a token that is in its METALM_TOKEN_FILE"
    known: list[tuple[type[MetaLMError], str]] = [
        (Starting, "wait until it has compiled its kernels: /readyz, or gRPC's health, tells"),
        (Draining, "it is being shut down: ask another, or wait for the next"),
        (Overloaded, "run more replicas, or give it more: METALM_MAX_REQUESTS, …_INFLIGHT_BYTES"),
        (
            LimitExceeded,
            "ask for less at a time, or raise what the service allows: "
            "METALM_MAX_MESSAGE_BYTES, METALM_MAX_INFLIGHT_BYTES, METALM_MAX_REQUEST_CPU_S",
        ),
        (InvalidArgument, "install a client and a service of the same release"),
        (
            CorruptBatch,
            "what stands between this machine and the service alters bytes: go round it",
        ),
        (
            InternalError,
            "mend the URL if something else answers there, such as a proxy; a service that fails "
            "says why in its log",
        ),
    ]
    for kind, mend in known:
        if isinstance(error, kind):
            return mend
    return "look at the service's log, and at what stands between it and this machine"
