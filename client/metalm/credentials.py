"""What a client shows to a service, and by what it knows one."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypedDict, TypeVar
from urllib.parse import SplitResult

from metalm_proto.errors import InvalidArgument, Unauthenticated
from metalm_proto.watched import version_of

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, 2.1
_SECURE = ("https", "grpcs")

T = TypeVar("T")

_log = logging.getLogger("metalm")


class Secret(str):
    """Text that no repr shows."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class CredentialArguments(TypedDict, total=False):
    """The fields of `Credentials`, as keywords."""

    token: str | os.PathLike[str] | None
    ca: str | os.PathLike[str] | None
    cert: str | os.PathLike[str] | None
    key: str | os.PathLike[str] | None
    allow_plaintext_token: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """`token`: text, or a path (`pathlib.Path`) to a file that holds it and is read for each
    request, so that it may change. (What is pickled holds the text, or the path.) `ca`: PEM file of
    the authorities that sign services, in place of those that are known anyway. `cert`, `key`: PEM
    files with what this client shows of itself; without `key` it is in `cert`. These three are read
    again once they have changed, and used for what is connected from then on.
    `allow_plaintext_token`: send the token over http:// and grpc:// to other machines, too, where
    anybody on the way can read it.

    Raises InvalidArgument, also for files that are not what they should be.
    """

    token: str | os.PathLike[str] | None = None
    ca: str | os.PathLike[str] | None = None
    cert: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    allow_plaintext_token: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.token, str):
            object.__setattr__(self, "token", Secret(_checked_token(self.token)))
        elif self.token is not None:
            self._token_of(self.token)
        for name in ("ca", "cert", "key"):
            path = getattr(self, name)
            if path is not None:
                _check_file(name, path)
        if self.key is not None and self.cert is None:
            raise InvalidArgument("cert", None, "given where key is")
        if self.ca is not None or self.cert is not None:
            self._context()

    def check(self, url: str, parts: SplitResult) -> None:
        """Raises InvalidArgument where the token would be sent to another machine in plain text."""
        plain = parts.scheme not in (*_SECURE, "inprocess")
        if self.token is None or self.allow_plaintext_token or not plain:
            return
        if not _is_loopback(parts.hostname or ""):
            bound = (
                "https:// or grpcs:// where there is a token: anybody on the way could read it "
                "(allow_plaintext_token sends it all the same)"
            )
            raise InvalidArgument("url", url, bound)

    def headers(self) -> dict[str, str]:
        """What each request carries. Raises Unauthenticated if the token's file has become none."""
        if self.token is None:
            return {}
        try:
            token = self.token if isinstance(self.token, str) else self._token_of(self.token)
        except InvalidArgument as error:
            raise Unauthenticated(str(error)) from error
        return {"authorization": f"Bearer {token}"}

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or newer, with the host's name checked. Raises Unauthenticated if the files have
        become none."""
        try:
            return self._context()
        except InvalidArgument as error:
            raise Unauthenticated(str(error)) from error

    def _context(self) -> ssl.SSLContext:
        """Raises InvalidArgument."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except (OSError, ValueError) as error:
            raise InvalidArgument("ca", str(self.ca), "a file of PEM certificates") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.cert is not None:
            try:
                context.load_cert_chain(self.cert, self.key, password=_no_password)
            except (OSError, ValueError) as error:
                bound = "a PEM chain, this client's own first, with its PEM key, not encrypted"
                raise InvalidArgument("cert", str(self.cert), bound) from error
        return context

    def pem(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """The contents of `ca`, `key` and `cert`. Raises Unauthenticated if the files have become
        none, or do not fit together."""
        self.context()
        files = {"ca": self.ca, "key": self.key or self.cert, "cert": self.cert}
        try:
            ca, key, cert = (
                None if file is None else _check_file(name, file) for name, file in files.items()
            )
        except InvalidArgument as error:
            raise Unauthenticated(str(error)) from error
        return ca, key, cert

    def version(self) -> tuple[object, ...]:
        """What is another when `ca`, `cert` or `key` is another file, or has changed."""
        return tuple(
            version_of(file) for file in (self.ca, self.cert, self.key) if file is not None
        )

    @staticmethod
    def _token_of(path: os.PathLike[str]) -> str:
        if not isinstance(path, os.PathLike):  # it may be a token, as bytes
            raise InvalidArgument("token", Secret(), "text, or the path of a file that holds it")
        try:
            return _checked_token(Path(path).read_text("ascii").strip())
        except (OSError, UnicodeDecodeError, TypeError) as error:
            bound = f"a token, or the path of a file with one ({getattr(error, 'strerror', error)})"
            raise InvalidArgument("token", str(path), bound) from error


NOBODY = Credentials()
"""Nothing to show, and the authorities that are known anyway."""


class Renewed(Generic[T]):
    """What is made of the files of credentials, made anew once these have changed. Thread-safe.

    Where nothing can be made of new files it stays as it was: so it does not matter in which order
    they are written.
    """

    def __init__(self, credentials: Credentials, make: Callable[[], T]) -> None:
        """`make` may raise Unauthenticated."""
        self._credentials = credentials
        self._make = make
        self._lock = threading.Lock()
        # Before they are read: what changes meanwhile is looked at again.
        self._version = credentials.version()
        self._made = make()

    def current(self) -> T:
        version = self._credentials.version()
        with self._lock:
            if version != self._version:
                self._version = version
                try:
                    self._made = self._make()
                except Unauthenticated as error:
                    _log.warning("the certificates stay as they were: %s", error)
            return self._made


def _checked_token(text: str) -> str:
    if not _TOKEN.fullmatch(text):
        bound = "letters, digits, '-', '.', '_', '~', '+', '/', and '=' at the end"
        raise InvalidArgument("token", Secret(), bound)
    return text


def _check_file(name: str, path: Any) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, TypeError) as error:
        bound = f"a file that can be read ({getattr(error, 'strerror', error)})"
        raise InvalidArgument(name, str(path), bound) from error


def _is_loopback(host: str) -> bool:
    if host == "localhost":  # RFC 6761, 6.3
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _no_password() -> str:
    raise ValueError("the key is encrypted")
