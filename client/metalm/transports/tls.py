"""What TLS says where it refuses, as errors of ours: what cannot heal must not be tried again."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from metalm_proto.errors import InternalError, MetaLMError, NotTls, Unavailable, Untrusted

# RFC 8446, 6.2: the alerts about a certificate; a server of TLS 1.2 calls a missing one a failure.
_ALERT = re.compile(
    r"ALERT_(\w*CERTIFICATE\w*|UNKNOWN_CA|ACCESS_DENIED|DECRYPT_ERROR|HANDSHAKE_FAILURE)"
)
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL")


def refusal(url: str, error: ssl.SSLError) -> MetaLMError:
    """The error of ours for one of a handshake with `url`, or of a connection after it."""
    reason = getattr(error, "reason", None) or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        said = error.verify_message
        return Untrusted(f"{url}: its certificate cannot be trusted: {said}")
    if alert := _ALERT.search(reason):
        said = alert[1].lower().replace("_", " ")
        return Untrusted(f"{url}: it does not take this client's certificate: {said}")
    if "ALERT_PROTOCOL_VERSION" in reason or reason == "UNSUPPORTED_PROTOCOL":
        return InternalError(f"{url}: it knows no version of TLS from 1.2 on")
    if reason in _NO_TLS:
        return NotTls(f"{url}: it does not speak TLS")
    return Unavailable(f"{url}: {reason or error}")


def examine(
    url: str, place: tuple[str, int], host: str, context: ssl.SSLContext, timeout_s: float
) -> MetaLMError | None:
    """Why a gRPC server at `place` refuses connections, where TLS is why; None where it is not.

    gRPC itself tells it in prose only. Takes `context` for itself.
    """
    context.set_alpn_protocols(["h2"])
    try:
        with _connected(place, host, context, timeout_s) as connection:
            # A server that accepts a connection speaks first (RFC 9113, 3.4).
            if connection.version() != "TLSv1.3" or connection.recv(1):
                return None
    except ssl.SSLError as error:
        found = refusal(url, error)
        return None if found.retryable else found
    except OSError:
        return None
    # It hung up without a word after the handshake, as gRPC's servers do where they want another
    # certificate. In TLS 1.2 that is a part of the handshake: so this one will not come about.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    try:
        with _connected(place, host, context, timeout_s):
            return None
    except (ssl.SSLEOFError, ConnectionResetError):
        return Untrusted(f"{url}: it does not take this client's certificate, or wants one")
    except OSError:
        return None


@contextmanager
def _connected(
    place: tuple[str, int], host: str, context: ssl.SSLContext, timeout_s: float
) -> Iterator[ssl.SSLSocket]:
    with (
        socket.create_connection(place, timeout_s) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        yield connection
