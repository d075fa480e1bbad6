"""TLS for both doors, from files that are read anew when they change."""

from __future__ import annotations

import logging
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path

import grpc

from metalm_proto.errors import InvalidArgument
from metalm_proto.watched import version_of
from metalm_service.config import ServerConfig

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Loaded:
    context: ssl.SSLContext
    configuration: grpc.ServerCertificateConfiguration


class Certificates:
    """The server's certificate and key, and, where `client_ca` is given, the authorities that must
    have signed a client's.

    A handshake after the files have changed uses the new ones. New files that do not fit together
    change nothing: so it does not matter in which order they are written. Thread-safe.

    Raises InvalidArgument.
    """

    def __init__(self, cert: str, key: str, client_ca: str | None = None) -> None:
        self._cert = cert
        self._key = key
        self._client_ca = client_ca
        self._lock = threading.Lock()
        self._version = self._version_of_files()
        self._loaded = self._load()

    @classmethod
    def of(cls, config: ServerConfig) -> Certificates | None:
        """Those of a configuration, if it has any."""
        if config.tls_cert is None or config.tls_key is None:
            return None
        return cls(config.tls_cert, config.tls_key, config.tls_client_ca)

    def http_context(self) -> ssl.SSLContext:
        """For the HTTP door, for as long as it is open."""
        context = self._loaded.context

        def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            connection.context = self._current().context

        context.sni_callback = choose  # called in every handshake, with a name or without
        return context

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For the gRPC door, for as long as it is open."""
        return grpc.dynamic_ssl_server_credentials(
            self._loaded.configuration,
            lambda: self._current().configuration,
            require_client_authentication=bool(self._client_ca),
        )

    def _current(self) -> _Loaded:
        if self._version_of_files() != self._version:
            with self._lock:
                version = self._version_of_files()
                if version != self._version:
                    try:
                        self._loaded = self._load()
                    except InvalidArgument as error:
                        _log.error("the certificates stay as they were: %s", error)
                    else:
                        _log.warning("%s has changed", self._cert)
                    # The one from before it was read: what changed since is looked at again.
                    self._version = version
        return self._loaded

    def _load(self) -> _Loaded:
        chain = _read("tls_cert", self._cert)
        key = _read("tls_key", self._key)
        authorities = None
        if self._client_ca is not None:
            authorities = _read("tls_client_ca", self._client_ca)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.sslobject_class = _Handshake
        # A session that is taken up again would skip the check of the client's certificate.
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
        context.num_tickets = 0
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._cert, self._key, password=_no_password)
        except (OSError, ValueError) as error:
            if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
                bound = f"the key of the certificate in {self._cert}"
                raise InvalidArgument("tls_key", self._key, bound) from error
            bound = "a PEM chain, the server's own first, and tls_key its PEM key, not encrypted"
            raise InvalidArgument("tls_cert", self._cert, bound) from error
        if self._client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(self._client_ca)
            except (OSError, ValueError) as error:
                bound = "PEM certificates of authorities"
                raise InvalidArgument("tls_client_ca", self._client_ca, bound) from error
        configuration = grpc.ssl_server_certificate_configuration([(key, chain)], authorities)
        return _Loaded(context, configuration)

    def _version_of_files(self) -> list[object]:
        files = filter(None, (self._cert, self._key, self._client_ca))
        return [version_of(file) for file in files]


class _Handshake(ssl.SSLObject):
    """Tells the client why its certificate was refused.

    asyncio closes the connection where a handshake fails, without what OpenSSL has to say of it
    (RFC 8446, 6.2). So the failure is held back until that has been sent.
    """

    _failed: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        if self._failed is not None:
            raise self._failed
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self._failed = error
            raise ssl.SSLWantReadError from error


def _read(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        bound = f"a file that can be read ({error.strerror})"
        raise InvalidArgument(name, path, bound) from error


def _no_password() -> str:
    raise ValueError("the key is encrypted")
