"""Bearer tokens (RFC 6750): who may ask for work, and whom it is counted for."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from metalm_proto.errors import InvalidArgument, Unauthenticated
from metalm_proto.watched import version_of

SCHEME = "Bearer"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
# RFC 6750, 2.1, and long enough that nobody guesses it.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{16,1024}=*")
_BOUND = (
    "a NAME of up to 64 letters, digits, '.', '_', '-', blanks, and a TOKEN of 16 to 1024 "
    "letters, digits, '-', '.', '_', '~', '+', '/'"
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Token:
    name: str
    digest: bytes


class Tokens:
    """The tokens that a server takes: those in `file`, a `NAME TOKEN` a line, and in `given`, the
    same with commas for ends of lines. Without either nobody needs one.

    A name may have several tokens, so that a new one can be given out before the old one is
    taken away. The file is read anew when it has changed; one that is broken then changes nothing.
    Only digests are kept. Thread-safe.

    Raises InvalidArgument, which names the place and never what stands there.
    """

    def __init__(self, file: str | None = None, given: str | None = None) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._given = tuple(_parsed("METALM_TOKENS", (given or "").split(",")))
        if given is not None and not self._given:
            raise InvalidArgument(
                "METALM_TOKENS", "not shown", "absent, or NAME TOKEN, NAME TOKEN, …"
            )
        self._version = None if file is None else version_of(file)
        self._tokens = self._given + self._read()
        self.required = bool(self._tokens)
        """Whether calls need a token."""

    def client(self, authorization: Sequence[str], address: str) -> str:
        """Whom a call is counted for: the name of its token, or its address where none is needed.

        `authorization`: the values of the call's headers of that name.

        Raises Unauthenticated.
        """
        if not self.required:
            return address
        if not authorization:
            raise Unauthenticated(f"this server wants a token: 'Authorization: {SCHEME} TOKEN'")
        scheme, _, token = authorization[0].partition(" ")
        if len(authorization) > 1 or scheme.lower() != SCHEME.lower():
            raise Unauthenticated(f"this server wants one header 'Authorization: {SCHEME} TOKEN'")
        digest = _digest(token.strip())
        name = None
        # All of them, so that the time tells nothing.
        for known in self._current():
            if hmac.compare_digest(known.digest, digest):
                name = known.name
        if name is None:
            raise Unauthenticated("the token is none of those that this server takes")
        return name

    def _current(self) -> tuple[_Token, ...]:
        if self._file is not None and version_of(self._file) != self._version:
            with self._lock:
                self._reload(self._file)
        return self._tokens

    def _reload(self, file: str) -> None:
        version = version_of(file)
        if version == self._version:
            return
        self._version = version
        try:
            self._tokens = self._given + self._read()
        except InvalidArgument as error:
            _log.error("the tokens stay as they were: %s", error)
        else:
            _log.warning("%s has changed: %d tokens", file, len(self._tokens))

    def _read(self) -> tuple[_Token, ...]:
        if self._file is None:
            return ()
        try:
            lines = Path(self._file).read_text("ascii").splitlines()
        except OSError as error:
            bound = f"a file that can be read ({error.strerror})"
            raise InvalidArgument("token_file", self._file, bound) from error
        except UnicodeDecodeError:
            raise InvalidArgument("token_file", self._file, "a file of plain ASCII") from None
        tokens = tuple(_parsed(f"token_file {self._file}", lines))
        if not tokens:
            raise InvalidArgument("token_file", self._file, "a file with a line: NAME TOKEN")
        return tokens


def _parsed(where: str, lines: Iterable[str]) -> Iterable[_Token]:
    seen: dict[bytes, str] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or not _NAME.fullmatch(words[0]) or not _TOKEN.fullmatch(words[1]):
            raise InvalidArgument(f"{where}, entry {number}", "not shown", _BOUND)
        name, digest = words[0], _digest(words[1])
        if seen.setdefault(digest, name) != name:
            raise InvalidArgument(f"{where}, entry {number}", name, "a token of its own")
        yield _Token(name, digest)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
