"""Callers at the gRPC door that send half of a call, watch for ever, leave early or read nothing."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
import urllib3
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from metalm_proto.v1 import metalm_pb2 as pb
from metalm_proto.v1 import metalm_pb2_grpc
from metalm_service.calls import client_of
from metalm_service.grpc.stalls import StallWatch
from tests.door import eventually, opened
from tests.forked import running
from tests.fuzz import h2
from tests.scraped import scrape, scraped_when
from tests.service_process import Service
from tests.vitals import vitals

SERVING = health_pb2.HealthCheckResponse.SERVING
OWN = "/metalm.v1.MetaLMService/"
HALF_OPEN = (
    f"{OWN}Sample",
    f"{OWN}StreamBatches",
    f"{OWN}Describe",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
NEVER = ("--request-timeout-s", "3600")
SOON = ("--request-timeout-s", "1")


def connected(service: Service) -> socket.socket:
    parts = urlsplit(service.grpc)
    return socket.create_connection((parts.hostname, parts.port))


@contextmanager
def channel_to(service: Service) -> Iterator[grpc.Channel]:
    # With a connection of its own.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(service.grpc.removeprefix("grpc://"), options) as channel:
        yield channel


@contextmanager
def half_open(service: Service, path: str, calls: int = 24) -> Iterator[h2.Peer]:
    """A connection with calls of which nothing but the headers was sent."""
    fields = (
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", path.encode()),
        (b":authority", b"a"), (b"content-type", b"application/grpc"), (b"te", b"trailers"),
    )  # fmt: skip
    block = b"".join(h2.literal(name, value) for name, value in fields)
    with connected(service) as connection:
        peer = h2.Peer(connection, patience_s=60)
        peer.greet()
        for number in range(calls):
            peer.send(h2.frame(h2.HEADERS, h2.END_HEADERS, 2 * number + 1, block))
        peer.ask()
        yield peer


def health_of(channel: grpc.Channel) -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    status: int = stub.Check(health_pb2.HealthCheckRequest(), timeout=30).status
    return status


@pytest.mark.parametrize("path", HALF_OPEN)
def test_half_a_call_keeps_its_place_for_some_seconds(path: str) -> None:
    """As many as there can be, on connections that live on."""
    with running("--max-requests", "8", *SOON) as service, ExitStack() as stack:
        peers = [stack.enter_context(half_open(service, path)) for _ in range(3)]
        with opened(service.grpc) as client, channel_to(service) as channel:
            eventually(lambda: client.sample(L=5), timeout_s=60)
            assert health_of(channel) == SERVING
        for peer in peers:
            peer.ask()
        assert not any("Traceback" in line for line in service.lines)


@pytest.mark.parametrize("path", [each for each in HALF_OPEN if "Health" not in each])
def test_probes_are_answered_while_all_places_are_taken(path: str) -> None:
    with running("--max-requests", "8", *NEVER) as service, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(half_open(service, path))
        with channel_to(service) as channel:
            # As soon as all who found no place have been told so.
            wait_for(lambda: all(is_answered(channel) for _ in range(20)))
            for _ in range(20):
                assert health_of(channel) == SERVING


def is_answered(channel: grpc.Channel) -> bool:
    try:
        return bool(health_of(channel) == SERVING)
    except grpc.RpcError:
        return False


def test_many_at_one_moment_are_all_told_when_to_come_again() -> None:
    with running("--max-requests", "1", *NEVER) as service, ExitStack() as stack:
        stubs = [
            metalm_pb2_grpc.MetaLMServiceStub(stack.enter_context(channel_to(service)))
            for _ in range(10)
        ]
        for stub in stubs:
            stub.Describe(pb.DescribeRequest(), timeout=60)

        def full() -> bool:
            # All places, and with them the threads that may wait for anything.
            stack.enter_context(half_open(service, HALF_OPEN[0], calls=9))
            return stubs[0].Sample.future(pb.SampleRequest(), timeout=60).exception() is not None

        wait_for(full)
        calls = [stub.Sample.future(pb.SampleRequest(), timeout=60) for stub in stubs * 8]
        waits = [told(call) for call in calls]
    assert None not in waits


def told(call: Any) -> float | None:
    """What an answer says of when to come again."""
    with pytest.raises(grpc.RpcError) as caught:
        call.result()
    status, info = rpc_status.from_call(caught.value), error_details_pb2.RetryInfo()
    for detail in () if status is None else status.details:
        if detail.Unpack(info):
            return float(info.retry_delay.ToNanoseconds()) / 1e9
    return None


def test_reflection_takes_no_place_of_the_data() -> None:
    path = HALF_OPEN[-1]
    with running("--max-requests", "8", *NEVER) as service, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(half_open(service, path))
        with opened(service.grpc) as client:
            client.sample(L=5)


def test_no_room_of_the_data_is_kept_for_refused_reflections() -> None:
    with running("--max-requests", "1", *NEVER) as service:
        with half_open(service, HALF_OPEN[-1]) as peer:
            while len(peer.ended) < 10:
                peer.wait()
            with urllib3.PoolManager(source_address=("127.0.0.2", 0), retries=False) as another:
                assert another.request("GET", f"{service.http}/sample?L=5").status == 200


def test_each_message_of_a_reflection_has_its_time() -> None:
    with running(*SOON) as service, channel_to(service) as channel:
        stop = threading.Event()

        def asked() -> Iterator[reflection_pb2.ServerReflectionRequest]:
            yield reflection_pb2.ServerReflectionRequest(list_services="")
            stop.wait(60)

        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        answers = stub.ServerReflectionInfo(asked(), timeout=60)
        assert next(answers).list_services_response.service
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
        stop.set()
        assert caught.value.code() is grpc.StatusCode.CANCELLED


@pytest.mark.parametrize("path", [each for each in HALF_OPEN if "Health" not in each])
def test_a_token_is_asked_for_before_the_message(path: str) -> None:
    with running(*NEVER, METALM_TOKENS="one 0123456789abcdef") as service:
        with half_open(service, path) as peer:
            while len(peer.ended) < 24:
                peer.wait()


@pytest.mark.parametrize("method", ["Describe", "Sample", "StreamBatches"])
def test_a_call_without_a_message_is_the_callers_fault(service: Service, method: str) -> None:
    with channel_to(service) as channel:
        call: Any = channel.stream_stream(OWN + method)
        with pytest.raises(grpc.RpcError) as caught:
            next(call(iter([]), timeout=30))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_watches_leave_nothing_behind() -> None:
    """150 MB of names, if they were kept."""
    with running() as service, channel_to(service) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        def watch(number: int) -> None:
            request = health_pb2.HealthCheckRequest(service=f"{number}" + "x" * 100_000)
            call = stub.Watch(request, timeout=60)
            assert next(call).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            call.cancel()

        for number in range(100):
            watch(number)
        before = vitals(service.process.pid).rss_mib
        for number in range(100, 1600):
            watch(number)
        assert vitals(service.process.pid).rss_mib < before + 75
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="x"), timeout=30)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_there_are_so_many_watches_and_no_more() -> None:
    with running() as service, ExitStack() as stack:
        stubs = [
            health_pb2_grpc.HealthStub(stack.enter_context(channel_to(service))) for _ in range(12)
        ]
        calls = []
        for number in range(1024):
            calls.append(stubs[number % 12].Watch(health_pb2.HealthCheckRequest(), timeout=300))
            assert next(calls[-1]).status == SERVING
        with pytest.raises(grpc.RpcError) as caught:
            next(stubs[0].Watch(health_pb2.HealthCheckRequest(), timeout=60))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        service.process.send_signal(signal.SIGTERM)
        for call in calls:
            assert next(call).status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_a_sample_is_sent_when_it_was_taken() -> None:
    """The reader takes the first 64 KiB, and the rest when it is told to."""
    request = pb.SampleRequest(spec=pb.Spec(sequence_length=2**20), seed=1)
    with running("--stall-timeout-s", "3600") as service, connected(service) as connection:
        peer = h2.Peer(connection, patience_s=60)
        peer.greet()
        peer.send(h2.call(1, request.SerializeToString(), "Sample"))
        scraped_when(service.http, lambda now: now("metalm_batches_total", door="grpc") == 1)
        assert scrape(service.http)("metalm_send_seconds_count", door="grpc") == 0
        for stream in (0, 1):
            peer.send(h2.frame(h2.WINDOW_UPDATE, 0, stream, (2**30).to_bytes(4, "big")))
        while 1 not in peer.ended:
            peer.wait()
        scraped_when(service.http, lambda now: now("metalm_send_seconds_count", door="grpc") == 1)


def test_a_cancelled_sample_keeps_its_place_until_its_thread_is_free() -> None:
    """It waits for its turn behind two others when its caller leaves."""
    long = pb.SampleRequest(
        spec=pb.Spec(sequence_length=1, elements_number=100_000), seed=1, size=12, provenance=True
    )
    flags = ("--threads", "1", "--max-client-share", "1", "--max-message-bytes", str(2**28))
    with running(*flags, "--max-inflight-bytes", str(2**34)) as service:
        with channel_to(service) as channel:
            stub = metalm_pb2_grpc.MetaLMServiceStub(channel)
            long_ones = [stub.Sample.future(long, timeout=300) for _ in range(2)]
            scraped_when(service.http, lambda now: now("metalm_requests_in_flight") == 2)

            def place_is_kept() -> bool:
                waiting = stub.Sample.future(pb.SampleRequest(seed=1), timeout=300)
                scraped_when(
                    service.http,
                    lambda now: now("metalm_requests_in_flight") == 3 or waiting.done(),
                )
                waiting.cancel()
                # Behind the end of the call, on the same connection.
                for _ in range(10):
                    stub.Describe(pb.DescribeRequest(), timeout=60)
                return scrape(service.http)("metalm_requests_in_flight") == 3

            # Where this is slow, it has its turn before anybody looks: long work pauses for others.
            assert any(place_is_kept() for _ in range(20))
            assert not any(call.done() for call in long_ones)
            for call in long_ones:
                call.cancel()
            scraped_when(service.http, lambda now: now("metalm_requests_in_flight") == 0)


def test_there_are_so_many_connections_and_no_more() -> None:
    with running("--max-connections", "5") as service, ExitStack() as stack:
        peers = []
        for _ in range(5):
            peers.append(h2.Peer(stack.enter_context(connected(service)), patience_s=60))
            peers[-1].greet()
        with connected(service) as sixth:
            sixth.settimeout(60)
            with pytest.raises(ConnectionError):
                h2.Peer(sixth, patience_s=60).greet()
        for peer in peers:
            peer.ask()


def test_readers_are_watched_while_the_service_drains() -> None:
    flags = ("--stall-timeout-s", "1", "--drain-timeout-s", "3600")
    with running(*flags) as service, channel_to(service) as channel:
        stub = metalm_pb2_grpc.MetaLMServiceStub(channel)
        request = pb.StreamBatchesRequest(
            spec=pb.Spec(sequence_length=2**14), seed=1, samples=2**14, batch_size=16
        )
        call = stub.StreamBatches(request)
        next(call)
        assert service.stop(timeout_s=120) == 0
        call.cancel()


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::1"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_an_address_stands_for_a_client(address: str, client: str) -> None:
    assert client_of(address) == client


def test_a_machine_is_one_client_at_both_doors() -> None:
    with running("--host", "::", "--log-format", "json") as service:
        ports = [urlsplit(url).port for url in (service.http, service.grpc)]
        assert urllib3.request("GET", f"http://127.0.0.1:{ports[0]}/sample?L=5").status == 200
        with opened(f"grpc://127.0.0.1:{ports[1]}") as client:
            client.sample(L=5)

        def told() -> set[tuple[str, str]]:
            lines = [json.loads(line) for line in service.lines if line.startswith("{")]
            return {(each["door"], each["client"]) for each in lines if "client" in each}

        wait_for(lambda: len(told()) > 1)
        assert told() == {("http", "127.0.0.1"), ("grpc", "127.0.0.1")}


def test_one_call_that_cannot_be_ended_ends_no_watch() -> None:
    class Call:
        def __init__(self, defect: Exception | None) -> None:
            self.cancelled = threading.Event()
            self._defect = defect

        def cancel(self) -> None:
            self.cancelled.set()
            if self._defect is not None:
                raise self._defect

    watch, over = StallWatch(60), threading.Event()
    watch.start()
    for call in (Call(RuntimeError("no such call")), Call(None)):
        with watch.sender(call, 0.0):
            assert call.cancelled.wait(60)
    watch.watch_until(over)
    over.set()


def wait_for(happened: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.01)
