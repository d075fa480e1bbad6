"""What TLS says where it refuses, as errors of ours: what cannot heal must not be tried again."""

from __future__ import annotations

import re
import socket
import ssl

from metalm_proto.errors import InternalError, MetaLMError, Unauthenticated, Unavailable

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
        return Unauthenticated(f"{url}: its certificate cannot be trusted: {said}")
    if alert := _ALERT.search(reason):
        said = alert[1].lower().replace("_", " ")
        return Unauthenticated(f"{url}: it does not take this client's certificate: {said}")
    if "ALERT_PROTOCOL_VERSION" in reason or reason == "UNSUPPORTED_PROTOCOL":
        return InternalError(f"{url}: it knows no version of TLS from 1.2 on")
    if reason in _NO_TLS:
        return InternalError(f"{url}: it does not speak TLS")
    return Unavailable(f"{url}: {reason or error}")


def examine(
    url: str, place: tuple[str, int], host: str, context: ssl.SSLContext, timeout_s: float
) -> MetaLMError | None:
    """Why a gRPC server at `place` refuses a connection, where TLS is why.

    gRPC itself tells it in prose only. A server that accepts a connection speaks first (RFC 9113,
    3.4); so does one that only now, with TLS 1.3, refuses the client's certificate.
    """
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection(place, timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=host) as connection,
        ):
            connection.recv(1)
    except ssl.SSLError as error:
        found = refusal(url, error)
        return None if found.retryable else found
    except OSError:
        return None
    return None
