"""`metalm doctor` over real servers with real faults."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from metalm.cli import main
from tests.certificates import Authority
from tests.command import COMMAND
from tests.forked import running
from tests.proxy import Proxy
from tests.service_process import Service

TOKEN = "trainer-0123456789abcdef"
CHECKS = ["connection", "service", "limits", "bytes", "latency"]
DOORS = pytest.mark.parametrize("door", ["http", "grpc"])

Findings = list[dict[str, str]]
Diagnose = Callable[..., tuple[int, Findings]]


@pytest.fixture
def diagnose(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Diagnose:
    def run(*arguments: str) -> tuple[int, Findings]:
        monkeypatch.setenv("GRPC_VERBOSITY", "ERROR")
        status = main(["doctor", "--json", "--seconds", "0.1", *arguments])
        told = json.loads(capsys.readouterr().out)
        assert told["well"] is (status == 0)
        found: Findings = told["findings"]
        assert all(bool(one["mend"]) is (one["state"] != "ok") for one in found)
        return status, found

    return run


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secure(authority: Authority) -> Iterator[Service]:
    with running(*authority.flags(lives_s=100 * 86400), METALM_TOKENS=f"a {TOKEN}") as service:
        yield service


def wrong(found: Findings) -> list[tuple[str, str, str]]:
    return [(one["check"], one["text"], one["mend"]) for one in found if one["state"] == "wrong"]


def the_wrong(answer: tuple[int, Findings]) -> tuple[str, str, str]:
    """The one thing that is wrong."""
    status, found = answer
    assert status == 1
    (one,) = wrong(found)
    return one


def test_all_is_well(diagnose: Diagnose, service: Service) -> None:
    status, found = diagnose(service.http, service.grpc, "--need", "1")
    assert status == 0
    assert [one["check"] for one in found] == [*CHECKS, *CHECKS, "speed"]
    assert {one["state"] for one in found} == {"ok"}


def test_all_is_well_with_tls_and_a_token(
    diagnose: Diagnose, secure: Service, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METALM_TOKEN", TOKEN)
    status, found = diagnose(secure.http, secure.grpc, "--ca", authority.ca)
    assert status == 0
    each = ["connection", "TLS", "service", "token", *CHECKS[2:]]
    assert [one["check"] for one in found] == [*each, *each, "speed"]
    tls = found[1]["text"]
    assert "TLSv1.3" in tls
    assert "127.0.0.1" in tls
    assert "trustme" in tls
    assert "ends" in tls


@DOORS
def test_nobody_there(diagnose: Diagnose, door: str) -> None:
    check, text, mend = the_wrong(diagnose(f"{door}://127.0.0.1:9"))
    assert (check, "nothing listens on port 9" in text) == ("connection", True)
    assert "METALM_PORT" in mend


def test_no_such_name(diagnose: Diagnose, service: Service) -> None:
    status, found = diagnose("http://nobody.invalid:8000", service.http)
    assert status == 1
    ((check, text, _),) = wrong(found)
    assert (check, "nobody.invalid" in text) == ("name", True)
    # The others are looked at all the same.
    assert found[-1]["check"] == "speed"


@DOORS
def test_the_wrong_door(diagnose: Diagnose, service: Service, door: str) -> None:
    other = {"http": service.grpc, "grpc": service.http}[door]
    check, _, mend = the_wrong(
        diagnose(f"{door}://{other.partition('://')[2]}", "--timeout_s", "2")
    )
    assert (check, f"use {other}" in mend) == ("service", True)


@DOORS
def test_tls_is_missing_on_one_side(
    diagnose: Diagnose, service: Service, secure: Service, authority: Authority, door: str
) -> None:
    url = getattr(service, door).replace("://", "s://")
    check, text, mend = the_wrong(diagnose(url))
    assert (check, text) == ("TLS", "it does not speak TLS")
    assert f"use {door}://" in mend
    url = getattr(secure, door)
    plain = url.replace("s://", "://")
    check, _, mend = the_wrong(diagnose(plain, "--ca", authority.ca, "--timeout_s", "2"))
    assert (check, f"use {url}" in mend) == ("service", True)


@DOORS
def test_a_wrong_token(
    diagnose: Diagnose, secure: Service, authority: Authority, door: str, tmp_path: Path
) -> None:
    asked = [getattr(secure, door), "--ca", authority.ca]
    check, _, mend = the_wrong(diagnose(*asked))
    assert (check, "METALM_TOKEN" in mend) == ("token", True)
    (tmp_path / "token").write_text("another-0123456789abcdef")
    check, text, mend = the_wrong(diagnose(*asked, "--token-file", str(tmp_path / "token")))
    assert (check, "none of those" in text) == ("token", True)
    assert "METALM_TOKEN_FILE" in mend


def test_a_token_that_nobody_wants(diagnose: Diagnose, service: Service, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    status, found = diagnose(service.http, "--token-file", str(tmp_path / "token"))
    assert status == 0
    assert [one["check"] for one in found if one["state"] == "note"] == ["token"]


@DOORS
def test_certificates_that_cannot_be_trusted(
    diagnose: Diagnose, secure: Service, authority: Authority, door: str
) -> None:
    check, text, mend = the_wrong(diagnose(getattr(secure, door)))
    assert (check, "issuer" in text, "--ca" in mend) == ("TLS", True, True)
    with running(*authority.flags("elsewhere.example")) as service:
        check, text, mend = the_wrong(diagnose(getattr(service, door), "--ca", authority.ca))
        assert (check, "not valid for" in text, "elsewhere.example" in mend) == ("TLS", True, True)
    with running(*authority.flags(lives_s=-60)) as service:
        check, text, mend = the_wrong(diagnose(getattr(service, door), "--ca", authority.ca))
        assert (check, "expired" in text, "renewed" in mend) == ("TLS", True, True)
    flags = [*authority.flags(lives_s=60), "--tls-client-ca", authority.ca]
    with running(*flags) as service:
        status, found = diagnose(getattr(service, door), "--ca", authority.ca)
        assert status == 1
        # It ends soon, which is worth a look.
        assert ("TLS", "note") in [(one["check"], one["state"]) for one in found]
        ((check, _, mend),) = wrong(found)
        assert (check, "--cert" in mend) == ("TLS", True)


@DOORS
def test_bytes_that_are_altered_on_the_way(diagnose: Diagnose, service: Service, door: str) -> None:
    with Proxy(getattr(service, door)) as proxy:
        # Behind the answer to the first question, in the tokens of a batch.
        proxy.arm("flip", 50_000)
        check, _, mend = the_wrong(diagnose(proxy.url))
        assert (check, "alters bytes" in mend) == ("bytes", True)
        assert proxy.hits["flip"] == 1


@DOORS
def test_a_service_that_takes_less_than_is_wanted(diagnose: Diagnose, door: str) -> None:
    with running("--max-message-bytes", "65536") as small:
        url = getattr(small, door)
        check, text, mend = the_wrong(diagnose(url))
        assert (check, "65536" in text) == ("limits", True)
        assert "METALM_MAX_MESSAGE_BYTES" in mend
        assert diagnose(url, "--batch_size", "8")[0] == 0
        assert diagnose(url, "-L", "1024")[0] == 0


def test_too_slow_for_what_is_needed(diagnose: Diagnose, service: Service) -> None:
    check, text, mend = the_wrong(diagnose(service.http, "--need", "1e14"))
    assert (check, "needed" in text, "replicas" in mend) == ("speed", True, True)


@contextmanager
def answering(status: int, content: bytes, media_type: str) -> Iterator[str]:
    """An HTTP server that says the same to everybody."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_somebody_else_answers(diagnose: Diagnose) -> None:
    for status, content, media_type in (
        (200, b"<html>Welcome</html>", "text/html"),
        (404, b"not here", "text/plain"),
        (200, b"{}", "application/json"),
    ):
        with answering(status, content, media_type) as url:
            check, text, mend = the_wrong(diagnose(url, "--timeout_s", "2"))
            assert (check, "does not answer like a MetaLM service" in text) == ("service", True)
            assert "something else" in mend


def test_another_generation_of_the_service(diagnose: Diagnose) -> None:
    known = {"version": "9.0.0", "generators": ["metalm-9"], "engine": "numba", "limits": None}
    with answering(200, json.dumps(known).encode(), "application/json") as url:
        check, text, mend = the_wrong(diagnose(url))
        assert (check, "metalm-9" in text, "same release" in mend) == ("service", True, True)


@DOORS
def test_an_address_without_a_replica_is_worth_a_look(
    diagnose: Diagnose, door: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name with two addresses, of which one has nobody."""
    with running("--host", "127.0.0.2") as service:
        port = int(getattr(service, door).rpartition(":")[2])
        look_up: Any = socket.getaddrinfo

        def two(host: str, *more: Any, **others: Any) -> Any:
            if host != "replicas.example":
                return look_up(host, *more, **others)
            found = [look_up(address, *more, **others) for address in ("127.0.0.2", "127.0.0.3")]
            return [place for places in found for place in places]

        monkeypatch.setattr(socket, "getaddrinfo", two)
        status, found = diagnose(f"{door}://replicas.example:{port}")
        assert status == 0, found
        assert found[0]["text"] == "replicas.example is 127.0.0.2, 127.0.0.3"
        (note,) = [one for one in found if one["state"] == "note"]
        assert "127.0.0.3" in note["text"]


@contextmanager
def in_front_of(
    service: Service, altered: Callable[[str, bool, int, bytes], tuple[int, bytes]]
) -> Iterator[str]:
    """The service behind somebody who alters its answers: given path, whether there is a token,
    status and body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with urllib.request.urlopen(service.http + self.path) as answer:
                status, body = answer.status, answer.read()
                media_type = answer.headers["Content-Type"]
            status, body = altered(self.path, "Authorization" in self.headers, status, body)
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_another_trouble_is_no_refusal(
    diagnose: Diagnose, service: Service, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(TOKEN)

    def busy(path: str, has_token: bool, status: int, body: bytes) -> tuple[int, bytes]:
        return (status, body) if has_token else (503, b"busy")

    with in_front_of(service, busy) as url:
        _, found = diagnose(url, "--token-file", str(tmp_path / "token"))
    (token,) = [one for one in found if one["check"] == "token"]
    assert (token["state"], "503" in token["text"]) == ("note", True)


def test_an_answer_without_a_batch_is_told(diagnose: Diagnose, service: Service) -> None:
    def emptied(path: str, has_token: bool, status: int, body: bytes) -> tuple[int, bytes]:
        return status, b"" if "/batches" in path else body

    with in_front_of(service, emptied) as url:
        check, _, _ = the_wrong(diagnose(url))
    assert check in ("limits", "bytes")


def test_what_a_service_says_of_itself_is_shown_on_one_line(
    diagnose: Diagnose, service: Service
) -> None:
    def said(path: str, has_token: bool, status: int, body: bytes) -> tuple[int, bytes]:
        if "/describe" not in path:
            return status, body
        return status, json.dumps({**json.loads(body), "version": "\x1b[2J\n9"}).encode()

    with in_front_of(service, said) as url:
        status, found = diagnose(url)
    assert status == 0
    (note,) = [one for one in found if one["check"] == "service"]
    assert note["text"].isprintable()


def test_what_people_read(service: Service) -> None:
    done = subprocess.run(
        [*COMMAND, "doctor", "--seconds", "0.1", service.http, "grpc://127.0.0.1:9"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    assert lines[0] == service.http
    assert "  ok     service" in done.stdout
    assert "  wrong  connection" in done.stdout
    assert "-> start the service" in done.stdout
    assert lines[-1] == "1 wrong"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["inprocess:"], "the URL of a service"),
        (["ftp://x"], "http://HOST:PORT"),
        (["http://127.0.0.1:1", "--need", "much"], "need"),
        (["http://127.0.0.1:1", "--seconds", "0"], "seconds"),
        (["http://127.0.0.1:1", "-V", "1"], "vocab_size"),
        (["http://127.0.0.1:1", "--ca", "/nowhere/ca"], "/nowhere/ca"),
    ],
    ids=str,
)
def test_wrong_usage_is_told(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", *arguments]) == 2
    told = capsys.readouterr()
    assert (named in told.err, told.out) == (True, "")


def test_the_bare_client_can_ask_too() -> None:
    """Nothing heavy is loaded before it is needed."""
    code = (
        "import sys, metalm.doctor.command; print({'numba', 'grpc', 'fastapi'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
