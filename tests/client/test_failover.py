"""A client whose endpoints fail, with real servers, real sockets, and a network that is tormented."""

from __future__ import annotations

import json
import logging
import signal
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import pytest

from metalm import MetaLMClient, Unauthenticated, Unavailable, UnknownGenerator
from tests.forked import running
from tests.proxy import Proxy
from tests.scraped import scrape
from tests.service_process import PORT_FLAGS, Service

RUN: dict[str, Any] = {"V": 64, "n": 8, "l": 8.0, "L": 64, "seed": 5, "batch_size": 16}
SMALL: dict[str, Any] = {"prefetch_bytes": 2**17}
"""Windows of 16 batches."""
DOORS = ["http", "grpc"]
NOBODY = {"http": "http://127.0.0.1:1", "grpc": "grpc://127.0.0.1:1"}


@pytest.fixture(scope="module")
def replicas() -> Iterator[tuple[Service, Service]]:
    with running() as one, running() as other:
        yield one, other


def true_digests(count: int) -> list[int]:
    with MetaLMClient("inprocess:") as twin:
        return [batch.digest for batch in twin.batches(**RUN, count=count, prefetch_bytes=0)]


def digests(client: MetaLMClient, count: int, **changed: Any) -> list[int]:
    found = []
    with client.batches(**RUN, count=count, **(SMALL | changed)) as batches:
        for batch in batches:
            batch.verify()
            found.append(batch.digest)
    return found


@pytest.mark.parametrize("door", DOORS)
def test_an_endpoint_that_is_not_there_is_passed_over(
    replicas: tuple[Service, Service], door: str
) -> None:
    urls = [NOBODY[door], getattr(replicas[0], door), getattr(replicas[1], door)]
    with MetaLMClient(urls) as client:
        assert digests(client, 100) == true_digests(100)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", ["cut", "reset", "flip"])
def test_a_bad_network_alters_nothing(
    replicas: tuple[Service, Service], door: str, kind: str
) -> None:
    with (
        Proxy(getattr(replicas[0], door)) as one,
        Proxy(getattr(replicas[1], door)) as other,
        MetaLMClient([one.url, other.url]) as client,
    ):
        for after in (150, 1_000, 20_000):
            one.arm(kind, after)
            other.arm(kind, after + 1)
        assert digests(client, 400) == true_digests(400)
        assert one.hits[kind] + other.hits[kind] >= 4


@pytest.mark.parametrize("door", DOORS)
def test_a_stall_goes_elsewhere_and_the_connection_is_not_used_again(
    replicas: tuple[Service, Service], door: str
) -> None:
    with Proxy(getattr(replicas[0], door)) as proxy, MetaLMClient(proxy.url, timeout_s=1) as client:
        proxy.arm("stall", 10_000)
        begun_at = time.monotonic()
        # The only endpoint: what goes on is a second connection to it.
        assert digests(client, 100) == true_digests(100)
        assert proxy.hits["stall"] == 1
        assert 1 <= time.monotonic() - begun_at < 20
    with Proxy(getattr(replicas[0], door)) as proxy:
        with MetaLMClient([proxy.url, getattr(replicas[1], door)], timeout_s=1) as client:
            proxy.arm("stall", 1000)
            assert digests(client, 200) == true_digests(200)
            assert proxy.hits["stall"] == 1


@pytest.mark.parametrize("door", DOORS)
def test_what_failed_once_gets_its_share_again(
    replicas: tuple[Service, Service], door: str
) -> None:
    """While the others are well, too."""
    with (
        Proxy(getattr(replicas[0], door)) as one,
        Proxy(getattr(replicas[1], door)) as other,
        MetaLMClient([one.url, other.url]) as client,
        client.batches(**RUN, **SMALL) as batches,
    ):
        one.arm("cut", 1000)
        until = time.monotonic() + 30
        while not one.hits["cut"]:
            next(batches)
        while not one.in_use():
            assert time.monotonic() < until
            next(batches)


@pytest.mark.parametrize("door", DOORS)
def test_a_rolling_restart_is_not_seen(door: str, caplog: pytest.LogCaptureFixture) -> None:
    with running() as one, running() as other:
        with MetaLMClient([getattr(one, door), getattr(other, door)]) as client:
            with client.batches(**RUN, count=1500, **SMALL) as batches:
                found = [batch.digest for batch in islice(batches, 300)]
                one.process.send_signal(signal.SIGTERM)
                found += [batch.digest for batch in batches]
        assert one.process.wait(30) == 0
    assert found == true_digests(1500)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("door", DOORS)
def test_all_are_down_and_one_comes_back(door: str) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(running())
        client = stack.enter_context(MetaLMClient([getattr(first, door), NOBODY[door]]))
        batches = stack.enter_context(client.batches(**RUN, count=200, prefetch_bytes=0))
        found = [batch.digest for batch in islice(batches, 50)]
        first.stop(signal.SIGKILL)
        rest: futures.Future[list[int]]
        with futures.ThreadPoolExecutor(1) as pool:
            rest = pool.submit(lambda: [batch.digest for batch in batches])
            time.sleep(1)
            stack.enter_context(running(*first.port_flag(door)))
            found += rest.result(60)
        assert found == true_digests(200)


@pytest.mark.parametrize("door", DOORS)
def test_a_client_may_be_there_before_the_server(door: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with MetaLMClient(f"{door}://127.0.0.1:{port}") as client:
        with futures.ThreadPoolExecutor(1) as pool:
            found = pool.submit(digests, client, 50)
            with running(PORT_FLAGS[door], str(port)):
                assert found.result(60) == true_digests(50)


def test_what_nothing_heals_is_told_by_each_endpoint() -> None:
    urls = [NOBODY["http"], "grpc://127.0.0.1:2", "http://nobody.invalid:80"]
    with MetaLMClient(urls, timeout_s=1) as client:
        asks: list[Callable[[], object]] = [
            lambda: client.batch(**RUN),
            lambda: next(client.batches(**RUN)),
        ]
        for ask in asks:
            begun_at = time.monotonic()
            with pytest.raises(Unavailable) as caught:
                ask()
            assert 0.9 < time.monotonic() - begun_at < 20
            for url in urls:
                assert url in str(caught.value)
            assert "refused" in str(caught.value)
            assert "cannot look up nobody.invalid" in str(caught.value)


@pytest.mark.parametrize("door", DOORS)
def test_the_silence_of_one_does_not_use_up_the_time_for_the_others(
    replicas: tuple[Service, Service], door: str
) -> None:
    """One is cut, then the other is silent for all of timeout_s, and the first is back long since."""
    with (
        Proxy(getattr(replicas[0], door)) as one,
        Proxy(getattr(replicas[1], door)) as other,
        MetaLMClient([one.url, other.url], timeout_s=1) as client,
        client.batches(**RUN, count=200, prefetch_bytes=0) as batches,
    ):
        found = [next(batches).digest]
        for proxy in (one, other):
            proxy.arm("cut", 1000)
            proxy.arm("stall", 1000)
        found += [batch.digest for batch in batches]
        assert found == true_digests(200)


class Answering(BaseHTTPRequestHandler):
    """Answers each request as `answer` says; that is what `requests` counts."""

    protocol_version = "HTTP/1.1"
    requests: int
    answer: bytes

    def do_GET(self) -> None:
        type(self).requests += 1
        self.wfile.write(self.answer)

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


@contextmanager
def answering(status: str, body: dict[str, Any]) -> Iterator[tuple[str, type[Answering]]]:
    text = json.dumps(body).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/problem+json\r\n"
    answer = f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text

    class Handler(Answering):
        requests = 0

    Handler.answer = answer
    handler = Handler
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", handler
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
def test_who_is_not_let_in_is_told_at_once(status: str) -> None:
    with answering(status, {}) as (url, server), MetaLMClient(url) as client:
        with pytest.raises(Unauthenticated, match=status[:3]):
            next(client.batches(**RUN, prefetch_bytes=0))
        assert server.requests == 1


@pytest.mark.parametrize("code", ["UNAUTHENTICATED", "PERMISSION_DENIED"])
def test_who_is_not_let_in_is_told_at_once_by_grpc_too(code: str) -> None:
    asked = []

    class Guard(grpc.ServerInterceptor):
        def intercept_service(self, continuation: Any, details: Any) -> Any:
            def refuse(_: Any, context: Any) -> None:
                asked.append(details.method)
                context.abort(grpc.StatusCode[code], "who are you?")

            return grpc.unary_stream_rpc_method_handler(refuse)

    server = grpc.server(futures.ThreadPoolExecutor(2), interceptors=[Guard()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with MetaLMClient(f"grpc://127.0.0.1:{port}") as client:
            with pytest.raises(Unauthenticated, match="who are you"):
                client.batch(**RUN)
        assert len(asked) == 1
    finally:
        server.stop(None).wait()


def test_an_unknown_generator_is_told_at_once() -> None:
    body = {
        "reason": "UNKNOWN_GENERATOR",
        "detail": "no such generator",
        "field": "generator",
        "value": "metalm-1",
        "bound": "metalm-9",
    }
    with answering("404 Not Found", body) as (url, server), MetaLMClient(url) as client:
        with pytest.raises(UnknownGenerator):
            client.batch(**RUN)
        assert server.requests == 1


def test_servers_that_are_overloaded_are_not_stormed() -> None:
    """One client, several threads of it, two servers that refuse all the time."""
    body = {"reason": "OVERLOADED", "detail": "too much", "retry_after_s": 0.05}
    status = "503 Service Unavailable"
    threads, seconds = 8, 3
    with answering(status, body) as (one, first), answering(status, body) as (two, second):
        with MetaLMClient([one, two], timeout_s=seconds) as client:

            def ask(_: int) -> float:
                begun_at = time.monotonic()
                with pytest.raises(Unavailable, match="too much"):
                    client.batch(**RUN)
                return time.monotonic() - begun_at

            with futures.ThreadPoolExecutor(threads) as pool:
                longest = max(pool.map(ask, range(threads)))
        assert first.requests + second.requests <= 1.1 * threads + longest + 2
        assert first.requests + second.requests >= 2


class Names:
    """What the names of the test stand for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses: list[str] = []
        self._look_up = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._answer)

    def _answer(self, host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "metalm.test":
            return self._look_up(host, port, *args, **kwargs)
        kind = socket.AF_INET, socket.SOCK_STREAM, 6, ""
        return [(*kind, (address, port)) for address in self.addresses]


@pytest.mark.parametrize("door", DOORS)
def test_all_addresses_of_a_name_are_used_and_followed(
    door: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "metalm")
    names = Names(monkeypatch)
    with running() as one:
        flag, port = one.port_flag(door)
        with running("--host", "127.0.0.2", flag, port) as two:
            names.addresses = ["127.0.0.1", "127.0.0.2"]
            with MetaLMClient(f"{door}://metalm.test:{port}") as client:
                assert digests(client, 200) == true_digests(200)
                for service in (one, two):
                    assert asked(service), service
                # One goes, as a pod does: first from the name, then from the world.
                names.addresses = ["127.0.0.1"]
                two.stop()
                assert digests(client, 200) == true_digests(200)
                # Another comes.
                with running("--host", "127.0.0.3", flag, port) as three:
                    names.addresses = ["127.0.0.1", "127.0.0.3"]
                    until = time.monotonic() + 60
                    while not asked(three):
                        assert time.monotonic() < until
                        assert digests(client, 50) == true_digests(50)


def asked(service: Service) -> int:
    """How many connections the service has."""
    pid = service.process.pid
    ports = {int(url.rpartition(":")[2]) for url in (service.http, service.grpc)}
    host = service.http.split("/")[2].partition(":")[0]
    packed = socket.inet_aton(host)[::-1].hex().upper()
    found = 0
    for table in ("tcp", "tcp6"):  # gRPC's sockets are of the second kind
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            place, state = line.split()[1], line.split()[3]
            address, _, port = place.partition(":")
            found += address.endswith(packed) and int(port, 16) in ports and state == "01"
    return found


@pytest.mark.parametrize("door", DOORS)
def test_the_fallback_gives_the_same_and_gives_way_again(
    door: str, caplog: pytest.LogCaptureFixture
) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(running())
        client = stack.enter_context(MetaLMClient(getattr(first, door), fallback="inprocess"))
        batches = stack.enter_context(client.batches(**RUN, **SMALL))
        found = [next(batches).digest for _ in range(100)]
        first.stop(signal.SIGKILL)
        found += [next(batches).digest for _ in range(1000)]
        warnings = [record.getMessage() for record in caplog.records if record.levelno >= 30]
        assert len(warnings) == 1
        assert "generated in this process" in warnings[0]
        second = stack.enter_context(running(*first.port_flag(door)))
        until = time.monotonic() + 60
        while not asked(second) or "answers again" not in caplog.text:
            assert time.monotonic() < until
            found.append(next(batches).digest)
        assert found == true_digests(len(found))


def test_a_late_window_is_asked_of_another_endpoint(replicas: tuple[Service, Service]) -> None:
    with Proxy(replicas[0].http) as slow, Proxy(replicas[1].http) as quick:
        with MetaLMClient([slow.url, quick.url], hedge=True) as client:
            assert digests(client, 1600) == true_digests(1600)
            slow.arm("stall", 1)
            begun_at = time.monotonic()
            # Long before the 30 seconds after which it would count as failed.
            assert digests(client, 400) == true_digests(400)
            assert slow.hits["stall"] == 1
            assert time.monotonic() - begun_at < 20


def test_each_server_is_asked_for_what_it_takes() -> None:
    with running("--max-request-samples", "64") as small, running() as large:
        with MetaLMClient([small.grpc, large.http]) as client:
            assert digests(client, 300) == true_digests(300)
            assert digests(client, 100, prefetch_bytes=0) == true_digests(100)


@pytest.mark.parametrize("prefetch_bytes", [0, 2**17])
def test_nobody_waits_for_longer_than_he_goes_on_trying(prefetch_bytes: int) -> None:
    """Whatever the server asks for."""
    body = {"reason": "OVERLOADED", "detail": "too much", "retry_after_s": 1000.0}
    with answering("503 Service Unavailable", body) as (url, server):
        with MetaLMClient(url, timeout_s=4) as client:
            with pytest.raises(Unavailable, match="too much"):
                next(client.batches(**RUN, prefetch_bytes=prefetch_bytes))
        assert server.requests >= 2


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("first", [0, 1])
def test_who_is_not_let_in_is_told_at_once_where_nobody_else_is_there(
    door: str, first: int
) -> None:
    with answering("401 Unauthorized", {}) as (url, _):
        urls = [url, NOBODY[door]]
        with MetaLMClient(urls[first:] + urls[:first], timeout_s=600) as client:
            with pytest.raises(Unauthenticated, match="401"):
                client.batch(**RUN)
            with pytest.raises(Unauthenticated, match="401"):
                next(client.batches(**RUN))


@pytest.mark.parametrize("door", DOORS)
def test_a_service_that_was_well_is_waited_for_whoever_else_refuses(door: str) -> None:
    """One replica does not take the token, and the other restarts."""
    with ExitStack() as stack:
        first = stack.enter_context(running())
        refusing, _ = stack.enter_context(answering("401 Unauthorized", {}))
        client = stack.enter_context(MetaLMClient([refusing, getattr(first, door)]))
        batches = stack.enter_context(client.batches(**RUN, count=200, prefetch_bytes=0))
        found = [batch.digest for batch in islice(batches, 50)]
        first.stop(signal.SIGKILL)
        with futures.ThreadPoolExecutor(1) as pool:
            rest = pool.submit(lambda: [batch.digest for batch in batches])
            time.sleep(1)
            stack.enter_context(running(*first.port_flag(door)))
            found += rest.result(60)
        assert found == true_digests(200)


class Emptying(grpc.GenericRpcHandler):
    """Passes calls on to a service; while `empty`, its streams end well and without a batch."""

    def __init__(self, target: str) -> None:
        self.channel = grpc.insecure_channel(target)
        self.empty = False
        self.emptied = 0
        self.passed = 0

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        method = details.method
        if method.endswith("/Describe"):
            ask: Any = self.channel.unary_unary(method)
            return grpc.unary_unary_rpc_method_handler(lambda request, _: ask(request))

        def stream(request: bytes, _: Any) -> Iterator[bytes]:
            if self.empty:
                self.emptied += 1
                return
            self.passed += 1
            passed: Any = self.channel.unary_stream(method)
            yield from passed(request)

        return grpc.unary_stream_rpc_method_handler(stream)


def test_an_answer_without_a_batch_is_looked_at_again(replicas: tuple[Service, Service]) -> None:
    handler = Emptying(replicas[0].grpc.removeprefix("grpc://"))
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with MetaLMClient(f"grpc://127.0.0.1:{port}", fallback="inprocess") as client:
            with client.batches(**RUN, **SMALL) as batches:
                handler.empty = True
                found = [next(batches).digest]
                until = time.monotonic() + 60
                # The request itself, and then those who look whether it is well again.
                while handler.emptied < 3:
                    assert time.monotonic() < until
                    found.append(next(batches).digest)
                handler.empty = False
                while handler.passed < 3:
                    assert time.monotonic() < until
                    found.append(next(batches).digest)
            assert found == true_digests(len(found))
    finally:
        server.stop(None).wait()
        handler.channel.close()


@pytest.mark.parametrize("door", DOORS)
def test_a_reader_that_pauses_is_no_failure_of_the_service(
    door: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The server ends the stream of one that takes nothing."""
    large: dict[str, Any] = {"L": 2**14, "batch_size": 64, "seed": 1}  # 2 MiB a batch
    caplog.set_level(logging.INFO, "metalm")
    with running("--stall-timeout-s", "1") as service:
        with MetaLMClient(getattr(service, door)) as client:
            with client.batches(**large, count=48, prefetch_bytes=0) as batches:
                found = [next(batches).digest]
                until = time.monotonic() + 60
                while not any("took nothing" in line for line in service.lines):
                    assert time.monotonic() < until
                    time.sleep(0.1)
                time.sleep(1)
                found += [batch.digest for batch in batches]
    with MetaLMClient("inprocess:") as twin:
        assert found == [batch.digest for batch in twin.batches(**large, count=48)]
    assert not caplog.records


@pytest.mark.parametrize("door", DOORS)
def test_what_a_server_takes_of_one_kind_says_nothing_of_another(door: str) -> None:
    with running("--max-request-samples", "64") as service:
        with MetaLMClient(getattr(service, door)) as client:
            # One batch at a time,
            with client.batches(**{**RUN, "batch_size": 64}, count=4, prefetch_bytes=0) as batches:
                assert len(list(batches)) == 4
            begun = requests(service)
            # and 64 at a time.
            with client.batches(**{**RUN, "batch_size": 1}, count=512, prefetch_bytes=0) as batches:
                assert len(list(batches)) == 512
            # With those that were refused.
            assert requests(service) - begun <= 20


def requests(service: Service) -> float:
    """Requests for batches that have ended, or begun: all that were told."""
    return scrape(service.http)("metalm_requests_total")
