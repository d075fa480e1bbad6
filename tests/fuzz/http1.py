"""Malformed HTTP/1.1 (RFC 9112) on raw sockets."""

from __future__ import annotations

import gzip
import json
import random
import re
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

from tests.fuzz.target import ANSWER_S, Tally, Target

_AT_A_TIME = 8
_IDLE_S = 0.2
"""After which a server that says nothing is told that nothing more will come."""
_HEAD = re.compile(rb"HTTP/1\.[01] (\d{3}) ?[^\r\n]*\r\n")
_OWN = {"OVERLOADED", "STARTING", "DRAINING"}
"""Reasons of a 503 that are no defect."""
_SMUGGLED = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Case:
    """Bytes, and how many answers they may have at most."""

    name: str
    data: bytes
    answers: int = 1


def _request(line: bytes, *headers: bytes, body: bytes = b"", host: bytes = b"Host: x") -> bytes:
    return b"\r\n".join([line, host, *headers, b"", body])


_GET = b"GET /sample?L=9&seed=1 HTTP/1.1"
_POST = b"POST /sample HTTP/1.1"


def _lines() -> list[Case]:
    wrong = [
        b"GET", b"GET /", b"GET / HTTP", b"GET / HTTP/", b"GET / HTTP/9.9", b"GET  HTTP/1.1", b"get / HTTP/1.1",
        b"GET / HTTP/1.1 x", b"\x00GET / HTTP/1.1", b"GET /\x00 HTTP/1.1", b"GET /\x80\xff HTTP/1.1", b"G\xc9T / HTTP/1.1",
        b"PRI * HTTP/2.0", b"GET\t/version\tHTTP/1.1", b"FOO /version HTTP/1.1", b"GET /version HTTP/11.1",
        b"GET /version\rHTTP/1.1", b"GET http:// HTTP/1.1", b"GET //// HTTP/1.1", b"GET /../../etc/passwd HTTP/1.1",
        b"CONNECT x:1 HTTP/1.1", b"OPTIONS * HTTP/1.1", b"GET /%zz?%zz=%zz HTTP/1.1", b"GET /sample?L=%00 HTTP/1.1",
        b"GET /sample?" + b"&" * 5000 + b" HTTP/1.1", b"GET /sample?" + b"V=4&" * 2000 + b" HTTP/1.1",
        b"GET /sample?L=" + b"9" * 60000 + b" HTTP/1.1", b"GET /" + b"a" * 200_000 + b" HTTP/1.1",
        b"TRACE /version HTTP/1.1", b"GET /sample?\xf0\x28\x8c\x28=1 HTTP/1.1", b"A" * 300_000,
    ]  # fmt: skip
    return [Case(f"line {line[:40]!r}", _request(line)) for line in wrong]


def _headers() -> list[Case]:
    strange = [
        b"X", b": x", b" : x", b"X : y", b"X\x00: y", b"X: \x00", b"X: a\rb", b"X: a\nb: c", b"X: y\r\n folded",
        b"\xff: \xff", b"X: " + b"\xfe" * 100, b"Host: y", b"Host: a, b", b"Content-Length: ", b"Expect: 100-continue",
        b"Expect: fail", b"Upgrade: websocket\r\nConnection: upgrade", b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
        b"Range: bytes=0-0", b"If-None-Match: " + b'"a",' * 5000, b"Accept: " + b"text/plain;q=9," * 4000,
        b"Accept: ;;;=,=;q=nan", b"X-Request-Id: " + b"a" * 9000, b"X-Request-Id: \x1b[31m", b"Connection: close, keep-alive, \x7f",
        b"Traceparent: 00-zz-zz-zz", b"Authorization: " + b"Bearer " * 500, b"Cookie: " + b"a=b;" * 5000,
        b"Content-Type: multipart/form-data; boundary=" + b"x" * 5000, b"Accept-Encoding: gzip;q=-1,,,",
    ]  # fmt: skip
    many = b"\r\n".join(b"X-%d: %s" % (k, b"v" * 60) for k in range(2000))
    giant = b"X: " + b"v" * 1_000_000
    cases = [Case(f"header {h[:40]!r}", _request(_GET, h)) for h in (*strange, many, giant)]
    cases.append(Case("no host", _request(_GET, host=b"X: y")))
    cases.append(Case("bare LF", b"GET /version HTTP/1.1\nHost: x\n\n"))
    cases.append(Case("CR only", b"GET /version HTTP/1.1\rHost: x\r\r"))
    cases.append(Case("empty lines first", b"\r\n" * 1000 + _request(_GET)))
    cases.append(Case("no header", b"GET /version HTTP/1.1\r\n\r\n"))
    cases.append(Case("HTTP/1.0", b"GET /version HTTP/1.0\r\n\r\n"))
    cases.append(Case("HTTP/0.9", b"GET /version\r\n"))
    return cases


def _lengths() -> list[Case]:
    """Where the body ends is doubtful: what comes behind it must not be taken for a request."""
    doubtful = [
        b"Content-Length: -1", b"Content-Length: +5", b"Content-Length: 0x5", b"Content-Length: 5 5",
        b"Content-Length: 5, 5", b"Content-Length: 5\r\nContent-Length: 6", b"Content-Length: 99999999999999999999999",
        b"Content-Length: 1e3", b"Content-Length: five", b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5", b"Transfer-Encoding: xchunked", b"Transfer-Encoding : chunked",
        b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: identity\r\nContent-Length: 0",
        b"Transfer-Encoding:\x0bchunked", b"Transfer-Encoding: \"chunked\"",
    ]  # fmt: skip
    cases = []
    for header in doubtful:
        for line in (_GET, _POST):
            data = _request(line, header, body=b"0\r\n\r\n" + _SMUGGLED)
            cases.append(Case(f"{line[:4]!r} {header[:50]!r}", data))
    return cases


def _bodies() -> list[Case]:
    bomb = _bomb()
    size = b"Content-Length: %d" % len(bomb)
    chunked = b"Transfer-Encoding: chunked"
    return [
        Case("body shorter than it says", _request(_POST, b"Content-Length: 1000", body=b"short")),
        Case("body longer than it says", _request(_POST, b"Content-Length: 2", body=b"longer"), 2),
        Case("huge length", _request(_POST, b"Content-Length: 9223372036854775807", body=b"x" * 300_000)),
        Case("4 MiB", _request(_POST, b"Content-Length: 4194304", body=bytes(2**22))),
        Case("4 MiB with a GET", _request(_GET, b"Content-Length: 4194304", body=bytes(2**22))),
        Case("gzip bomb", _request(_POST, b"Content-Encoding: gzip", size, body=bomb)),
        Case("gzip bomb with a GET", _request(_GET, b"Content-Encoding: gzip", size, body=bomb)),
        Case("chunk of many digits", _request(_POST, chunked, body=b"f" * 100 + b"\r\nx")),
        Case("chunk that lies", _request(_POST, chunked, body=b"fffffff\r\nabc\r\n0\r\n\r\n")),
        Case("negative chunk", _request(_POST, chunked, body=b"-1\r\nabc\r\n0\r\n\r\n")),
        Case("chunk extensions", _request(_POST, chunked, body=b"1;" + b"x" * 200_000 + b"\r\na\r\n0\r\n\r\n")),
        Case("many small chunks", _request(_POST, chunked, body=b"1\r\na\r\n" * 20_000 + b"0\r\n\r\n")),
        Case("giant trailers", _request(_POST, chunked, body=b"0\r\n" + b"X: y\r\n" * 50_000 + b"\r\n")),
        Case("chunk without CRLF", _request(_POST, chunked, body=b"3\r\nabc0\r\n\r\n" + _SMUGGLED), 1),
        Case("chunk with bare LF", _request(_POST, chunked, body=b"3\nabc\n0\n\n" + _SMUGGLED), 1),
    ]  # fmt: skip


def _pipelines() -> list[Case]:
    good = _request(_GET)
    return [
        Case("100 at once", good * 100, answers=100),
        Case("good, then wrong", good + b"\x00\x01\x02\r\n\r\n", answers=2),
        Case("wrong, then good", b"\x00\x01\x02\r\n\r\n" + good, answers=1),
        Case("close, then good", _request(_GET, b"Connection: close") + good, answers=1),
        Case(
            "long answers, not awaited", _request(b"GET /batches?seed=1&stop=64 HTTP/1.1") * 20, 20
        ),
    ]


@lru_cache(maxsize=1)
def _bomb() -> bytes:
    return gzip.compress(bytes(2**26), 9)


@lru_cache(maxsize=1)
def known() -> list[Case]:
    return [*_lines(), *_headers(), *_lengths(), *_bodies(), *_pipelines()]


def malformed(target: Target, cases: int, source: random.Random) -> Tally:
    """Every known way to be wrong, and then mutations of them."""
    tally = Tally("HTTP/1.1")
    chosen = [known()[number % len(known())] for number in range(cases)]
    for number in range(len(known()), cases):
        case = chosen[number]
        name = f"mutation {number} of {case.name}"
        chosen[number] = Case(name, _mutated(case.data, source), answers=10_000)
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        for answer, findings in pool.map(lambda case: _meet(target, case), chosen):
            tally.count(answer)
            tally.findings.extend(findings)
    return tally


def _meet(target: Target, case: Case) -> tuple[str, list[str]]:
    """The statuses, and what is wrong with them."""
    with target.connected("http") as connection:
        answer = _answer(connection, case.data)
    if answer is None:
        return "left open", [f"{case.name}: still open after {ANSWER_S} s"]
    heads = [(int(head[1]), head.end()) for head in _HEAD.finditer(answer) if head[1] >= b"200"]
    findings = [
        f"{case.name}: {status}: {answer[at : at + 500]!r}"
        for status, at in heads
        if status >= 500 and not (status == 503 and _reason(answer[at:]) in _OWN)
    ]
    if len(heads) > case.answers:
        findings.append(f"{case.name}: {len(heads)} answers: {answer[:2000]!r}")
    return " ".join(sorted({str(status) for status, _ in heads})) or "closed", findings


def _reason(rest: bytes) -> str:
    body = rest.partition(b"\r\n\r\n")[2]
    try:
        return str(json.JSONDecoder().raw_decode(body.decode("utf-8", "replace"))[0]["reason"])
    except (ValueError, KeyError, TypeError):
        return ""


def _answer(connection: socket.socket, data: bytes) -> bytes | None:
    """All that the server says until it closes; None if it does not. It is told that there will be
    no more as soon as it has nothing to say for a while."""
    parts = []
    try:
        connection.sendall(data)
        connection.settimeout(_IDLE_S)
        while part := connection.recv(2**16):
            parts.append(part)
    except TimeoutError:
        pass
    except OSError:
        return b"".join(parts)
    else:
        return b"".join(parts)
    try:
        connection.settimeout(ANSWER_S)
        connection.shutdown(socket.SHUT_WR)
        while part := connection.recv(2**16):
            parts.append(part)
    except TimeoutError:
        return None
    except OSError:
        pass
    return b"".join(parts)


_Mutation = Callable[[bytes, int, random.Random], bytes]
_MUTATIONS: tuple[_Mutation, ...] = (
    lambda data, at, source: data[:at],
    lambda data, at, source: data[:at] + source.randbytes(source.randrange(1, 8)) + data[at:],
    lambda data, at, source: data[:at] + data[at + source.randrange(1, 20) :],
    lambda data, at, source: data[:at] + bytes([source.randrange(256)]) + data[at + 1 :],
    lambda data, at, source: data.replace(b"\r\n", source.choice((b"\n", b"\r", b"\r\r\n", b""))),
    lambda data, at, source: data[:at] + source.choice((b"\x00", b"\r\n", b":", b" ", b"%")) + data[at:],
    lambda data, at, source: data + data[at:],
)  # fmt: skip


def _mutated(data: bytes, source: random.Random) -> bytes:
    data = data[:50_000]
    for _ in range(source.randrange(1, 4)):
        data = source.choice(_MUTATIONS)(data, source.randrange(len(data) + 1), source)
    return data
