"""The HTTP door."""

from __future__ import annotations

import io
import json
import ssl
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlencode, urlsplit

import urllib3
from urllib3 import exceptions

from metalm.credentials import NOBODY, Credentials, Renewed
from metalm.transports import tls
from metalm.transports.base import CONNECT_S, BatchStream
from metalm.transports.memory import Memory
from metalm_proto import protobuf, query, wire
from metalm_proto.batch import Batch
from metalm_proto.description import Description
from metalm_proto.errors import (
    CorruptBatch,
    DeadlineExceeded,
    InternalError,
    MetaLMError,
    Unauthenticated,
    Unavailable,
    Unreachable,
    from_reason,
    one_line,
)
from metalm_proto.spec import BatchRequest, Spec

_HEAD = 5
"""The longest length prefix, and less than the shortest batch."""
_LARGEST_MESSAGE = 2**31
"""protobuf's own limit; a longer length is not one."""
_UNKNOWN_FIELDS = 4096
"""Bytes that a newer service may have to say beside what is known here."""
_LARGEST_JSON = 2**20
_JSON, _PROBLEM = "application/json", "application/problem+json"
_DAMAGED = 64
"""Requests, the last ones, whose answers came damaged: a cache on the way may have kept them, and
is asked past when they are asked again."""


class HttpTransport:
    """A service at `http://` or `https://`.

    `address`: the one to connect to, of those that the URL's host has; by default the host itself.
    `timeout_s`: to connect, and between any two pieces of an answer.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        address: str | None = None,
        credentials: Credentials = NOBODY,
    ) -> None:
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._credentials = credentials
        parts = urlsplit(self._url)
        host = parts.hostname or ""
        self._headers = {"Host": parts.netloc}

        def pool() -> urllib3.PoolManager:
            secured: dict[str, Any] = {}
            if parts.scheme == "https":
                secured["ssl_context"] = credentials.context()
                if address:
                    secured["server_hostname"] = host
            return urllib3.PoolManager(maxsize=8, retries=False, **secured)

        self._pool = Renewed(credentials, pool)
        self._memory = Memory()
        self._damaged: tuple[BatchRequest, ...] = ()
        self._base = self._url
        if address:
            literal = f"[{address}]" if ":" in address else address
            port = "" if parts.port is None else f":{parts.port}"
            self._base = f"{parts.scheme}://{literal}{port}{parts.path}"

    def batches(self, request: BatchRequest) -> BatchStream:
        reading = _Interruptible()
        return BatchStream(self._batches(request, reading), reading.interrupt)

    def _batches(
        self, request: BatchRequest, reading: _Interruptible
    ) -> Generator[Batch, None, None]:
        pairs = query.batches_pairs(request)
        anew = request in self._damaged
        with self._get("/batches", pairs, wire.STREAM_MEDIA_TYPE, self._timeout_s, anew) as answer:
            reading.begin(answer)
            messages = _Messages(answer, _most_bytes(request, answer), self._memory)
            try:
                for _ in request.ranges():
                    yield wire.decode_batch(messages.read())
                messages.end()
            except CorruptBatch:
                self._damaged = (*self._damaged, request)[-_DAMAGED:]
                raise

    def describe(self, spec: Spec | None, timeout_s: float | None = None) -> Description:
        pairs, seconds = query.spec_pairs(spec), timeout_s or self._timeout_s
        with self._get("/describe", pairs, _JSON, seconds) as answer:
            try:
                return Description.from_dict(_json_of(answer), spec)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise self._not_a_service(answer, _JSON) from error

    def text(self, path: str, media_type: str) -> str:
        """What the door has at another path of its own, such as its metrics.

        Raises any MetaLMError.
        """
        with self._get(path, [], media_type, self._timeout_s) as answer:
            return answer.read().decode("utf-8", "replace")

    def close(self) -> None:
        self._pool.current().clear()
        self._memory.close()

    @contextmanager
    def _get(
        self,
        path: str,
        pairs: list[tuple[str, str]],
        accept: str,
        timeout_s: float,
        anew: bool = False,
    ) -> Iterator[urllib3.HTTPResponse]:
        headers = {**self._headers, "Accept": accept, **self._credentials.headers()}
        if anew:
            # RFC 9111, 5.2.1.4
            headers["Cache-Control"] = "no-cache"
        try:
            answer = self._pool.current().request(
                "GET",
                f"{self._base}{path}?{urlencode(pairs)}",
                headers=headers,
                timeout=urllib3.Timeout(connect=min(timeout_s, CONNECT_S), read=timeout_s),
                # Nobody else is to be shown the credentials.
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            assert isinstance(answer, urllib3.HTTPResponse)  # no other exists with HTTP/1.1
            try:
                if answer.status != 200:
                    raise self._error(answer)
                expected = accept.partition(";")[0]
                if not answer.headers.get("Content-Type", "").startswith(expected):
                    raise self._not_a_service(answer, expected)
                yield answer
                # Read to its end: the connection can be used again.
                answer.release_conn()
            finally:
                answer.close()
        # A refused connection is a kind of time-out to urllib3.
        except exceptions.NewConnectionError as error:
            raise Unreachable(f"{self._url}: cannot connect: {_cause(error)}") from error
        except exceptions.ConnectTimeoutError as error:
            message = f"{self._url}: cannot connect within {min(timeout_s, CONNECT_S):g} s"
            raise Unreachable(message) from error
        except exceptions.TimeoutError as error:
            message = f"{self._url}: no sign of the service for {timeout_s:g} s"
            raise DeadlineExceeded(message) from error
        except exceptions.ProtocolError as error:
            raise Unavailable(f"{self._url}: the connection ended: {_cause(error)}") from error
        except exceptions.SSLError as error:
            raise _refusal(self._url, error) from error
        except exceptions.HTTPError as error:
            raise Unavailable(f"{self._url}: {_cause(error)}") from error

    def _error(self, answer: urllib3.HTTPResponse) -> MetaLMError:
        """The error that the service sent, or one for whatever else answered in its place."""
        try:
            problem = _json_of(answer)
            details = {name: str(problem.get(name, "")) for name in ("field", "value", "bound")}
            return from_reason(
                problem["reason"], problem["detail"], details, problem.get("retry_after_s")
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            if answer.status in (401, 403):
                return Unauthenticated(f"{self._url}: HTTP status {answer.status}")
            if answer.status in (429, 502, 503, 504):
                return Unavailable(f"{self._url}: HTTP status {answer.status}")
            return self._not_a_service(answer, _PROBLEM)

    def _not_a_service(self, answer: urllib3.HTTPResponse, expected: str) -> MetaLMError:
        """The error for an answer that is not of the `expected` media type."""
        if _is_cut(answer, expected):
            return Unavailable(f"{self._url}: the answer was cut off in its head")
        return InternalError(
            f"{self._url} does not answer like a MetaLM service (HTTP status {answer.status})"
        )


def _is_cut(answer: urllib3.HTTPResponse, expected: str) -> bool:
    """Whether the connection ended within the answer's head, which to a parser looks like the end
    of the head: its type is a part of the `expected` one, or it does not say how long it is."""
    media_type = answer.headers.get("Content-Type", "")
    if media_type != expected and expected.startswith(media_type):
        return True
    length, coding = (
        answer.headers.get(name, "") for name in ("Content-Length", "Transfer-Encoding")
    )
    # In HTTP/1.0 that is nothing unusual.
    return answer.version >= 11 and not length.isdigit() and coding.lower() != "chunked"


class _Interruptible:
    """An answer whose reading another thread can break off."""

    def __init__(self) -> None:
        self._answer: urllib3.HTTPResponse | None = None
        self._interrupted = False

    def begin(self, answer: urllib3.HTTPResponse) -> None:
        """Raises Unavailable if it was interrupted before there was an answer."""
        self._answer = answer
        if self._interrupted:
            raise Unavailable("the request was closed")

    def interrupt(self) -> None:
        self._interrupted = True
        if self._answer is not None:
            # Raised where the answer is over or gone already: nobody waits for it then.
            with suppress(RuntimeError, ValueError, OSError):
                self._answer.shutdown()


def _most_bytes(request: BatchRequest, answer: urllib3.HTTPResponse) -> int:
    """What all messages together may have. Before they are there, nothing is allocated for more:
    a length that is damaged must be told from a connection that was cut."""
    known, told = wire.encoded_length(request), answer.length_remaining
    most = _LARGEST_MESSAGE if known is None else known + _UNKNOWN_FIELDS
    return most if told is None else min(most, told)


class _Messages:
    """The length-delimited messages of an answer, of `most_bytes` bytes all together at most."""

    def __init__(self, answer: urllib3.HTTPResponse, most_bytes: int, memory: Memory) -> None:
        self._most_bytes = most_bytes
        self._memory = memory
        # Otherwise it would count as closed, and refuse to be read, at its last byte.
        answer.auto_close = False
        self._stream = io.BufferedReader(answer, 2**16)

    def read(self) -> memoryview:
        """The next message, in memory that is its own as long as anything views it."""
        head = self._stream.read(_HEAD)
        length, begin = protobuf.read_varint(head, 0)
        rest = head[begin:]
        if not len(rest) <= length <= self._most_bytes:
            raise CorruptBatch(
                f"a batch of {length} bytes was announced; {self._most_bytes} at most are to come"
            )
        self._most_bytes -= length
        message = self._memory.take(length)
        message[: len(rest)] = rest
        if self._stream.readinto(message[len(rest) :]) < length - len(rest):
            raise Unavailable("the connection was closed in the middle of an answer")
        return message

    def end(self) -> None:
        """Raises CorruptBatch if more was sent than was asked for."""
        if self._stream.read(1):
            raise CorruptBatch("the answer goes on after the last batch")
        # Otherwise the reader would take the connection with it when it goes.
        self._stream.detach()


def _json_of(answer: urllib3.HTTPResponse) -> Any:
    """What is in an answer. Raises ValueError for what is no JSON, or none that anybody needs."""
    try:
        return json.loads(answer.read(_LARGEST_JSON))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _refusal(url: str, error: exceptions.SSLError) -> MetaLMError:
    for cause in (*error.args, error.__cause__):
        if isinstance(cause, ssl.SSLError):
            return tls.refusal(url, cause)
    return Unavailable(f"{url}: {_cause(error)}")


def _cause(error: exceptions.HTTPError) -> object:
    """The innermost cause, which is what can be acted on."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return one_line(getattr(cause, "strerror", None) or cause)
