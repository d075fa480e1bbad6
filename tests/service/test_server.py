"""Start, limits, drain and stop of the process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import urllib3
from grpc_health.v1 import health_pb2, health_pb2_grpc

from metalm import (
    DeadlineExceeded,
    LimitExceeded,
    MetaLMClient,
    MetaLMError,
    Overloaded,
    Unavailable,
)
from metalm.transports.base import BatchStream
from tests import service_process
from tests.door import eventually, opened
from tests.forked import metalm, running
from tests.service_process import Service


@pytest.fixture(scope="module")
def small() -> Iterator[Service]:
    """A service with room for two streams of 1 MiB batches, of which it may hold four each, and
    for what is needed to make them."""
    with running(
        "--max-message-bytes", "1048576", "--max-inflight-bytes", "8500000",
        "--max-requests", "3", "--max-request-samples", "4096", "--max-client-share", "1",
    ) as service:  # fmt: skip
        yield service


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_limits_hold_for_both_doors(small: Service, door: str) -> None:
    with MetaLMClient(getattr(small, door)) as client:
        client.batch(L=2**14, batch_size=32, seed=1)
        with pytest.raises(LimitExceeded, match="1048576"):
            client.batch(L=2**14, batch_size=33, seed=1)
        with pytest.raises(LimitExceeded, match="4096 in one request"):
            client.batch(L=1, batch_size=4097, seed=1)
        # The client cuts a long range to what this server takes at a time.
        assert sum(1 for _ in client.batches(L=8, seed=1, batch_size=100, stop=9000)) == 90


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_bytes_in_flight_are_bounded_and_given_back(small: Service, door: str) -> None:
    # 128 batches of 1 MiB: far more than the sockets' buffers take.
    arguments: dict[str, Any] = {"L": 2**14, "batch_size": 32, "count": 128}
    with opened(getattr(small, door)) as client:
        for _ in range(3):
            streams = [eventually(lambda: started(client.batches(**arguments))) for _ in range(2)]
            with pytest.raises(Overloaded, match="in flight") as caught:
                client.sample(L=2**17, seed=1)
            assert caught.value.retryable
            assert caught.value.retry_after_s is not None
            assert 1 <= caught.value.retry_after_s <= 5
            for stream in streams:
                stream.close()


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_requests_at_one_time_are_bounded(small: Service, door: str) -> None:
    with opened(getattr(small, door)) as client:
        # 64 MiB each, in batches small enough for three to have room.
        streams = [
            eventually(lambda: started(client.batches(L=2**13, batch_size=16, count=256)))
            for _ in range(3)
        ]
        with pytest.raises(Overloaded, match="3 requests"):
            client.sample(L=5, seed=1)
        for stream in streams:
            stream.close()
        eventually(lambda: client.sample(L=5, seed=1))


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_no_client_has_more_than_its_share(door: str) -> None:
    """Places and bytes; the others are on the same machine, under another address."""
    with running("--host", "127.0.0.1", "--max-requests", "4") as service:
        with opened(getattr(service, door)) as client:
            streams = [started(client.batches(L=2**13, count=256)) for _ in range(2)]
            with pytest.raises(Overloaded, match="this client has 2 requests") as caught:
                client.sample(L=5)
            assert caught.value.retryable
            streams[0].close()
            eventually(lambda: client.sample(L=5))
    with running("--max-message-bytes", "1048576", "--max-inflight-bytes", "7000000") as service:
        with opened(getattr(service, door)) as client:
            # One is always allowed, even where its share would be too small for it.
            stream = started(client.batches(L=2**14, count=128))
            with pytest.raises(Overloaded, match=r"this client has .* in flight"):
                client.sample(L=2**16)
            stream.close()


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_a_request_that_would_cost_too_much_is_refused(door: str) -> None:
    with running("--max-request-cpu-s", "1") as service, opened(getattr(service, door)) as client:
        next(client.batches(L=2**14, count=300))
        for dear in (
            partial(client.batches, L=2**14, count=2**13),
            partial(client.sample, L=1, n=10**5, l=100, provenance=True),
        ):
            with pytest.raises(LimitExceeded, match="seconds of a core") as caught:
                next(iter(dear()))
            assert not caught.value.retryable
            assert caught.value.field == "samples"
        with MetaLMClient(getattr(service, door)) as cutting:
            batches = cutting.batches(L=2**14, seed=1, prefetch_bytes=2**30, count=600)
            assert sum(1 for _ in batches) == 600
            limits = cutting.describe().limits
            assert limits is not None
            assert limits.max_request_cpu_s == 1


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_a_client_is_never_refused_because_of_its_own_last_request(door: str) -> None:
    """What a request reserved is free again the moment that its last byte is here."""
    with running("--max-requests", "1", "--max-request-samples", "64") as service:
        with MetaLMClient(getattr(service, door)) as client:
            one_at_a_time = client.batches(L=64, seed=1, count=400, prefetch_bytes=0)
            assert sum(1 for _ in one_at_a_time) == 400
            for index in range(300):
                client.sample(index, L=64, seed=1)


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_work_that_nobody_waits_for_ends(door: str) -> None:
    """A provenance of half a minute, left: its thread and its place are free soon after."""
    room = ("--max-message-bytes", str(2**29), "--max-inflight-bytes", str(2**31))
    with service_process.running("--threads", "1", "--max-requests", "1", *room) as service:
        with opened(getattr(service, door), timeout_s=0.2) as client:
            with pytest.raises(DeadlineExceeded):
                client.sample(n=2**24 - 1, l=2, L=1, seed=1, provenance=True)
        with opened(getattr(service, door)) as client:
            eventually(lambda: client.sample(L=5, seed=1), timeout_s=10)
        assert service.stop() == 0


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_a_silent_server_is_noticed(door: str) -> None:
    with running() as service, opened(getattr(service, door), timeout_s=1) as client:
        batches = client.batches(L=2**14)
        next(batches)
        service.process.send_signal(signal.SIGSTOP)
        with pytest.raises(DeadlineExceeded):
            for _ in range(10_000):  # what is under way already may still arrive
                next(batches)
        service.process.send_signal(signal.SIGCONT)
        client.sample(L=5)


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_readers_that_never_read_do_not_fill_the_memory(door: str) -> None:
    """Streams of 8 MiB batches, read once and then left standing: 170 MiB may be in flight."""
    limits = ("--max-message-bytes", "8388608", "--max-inflight-bytes", str(170 * 2**20))
    with running(*limits, "--max-client-share", "1") as service:
        with opened(getattr(service, door)) as client:
            assert len(list(client.batches(L=2**17, count=1))) == 1
            before = resident_bytes(service)
            streams = [client.batches(L=2**17, count=2000) for _ in range(5)]
            for stream in streams:
                next(stream)
            with pytest.raises(Overloaded):
                next(client.batches(L=2**17, count=2000))
            highest = 0
            for _ in range(50):
                highest = max(highest, resident_bytes(service))
                time.sleep(0.01)
            assert highest - before < 170 * 2**20 + 32 * 2**20
            for stream in streams:
                stream.close()


def resident_bytes(service: Service) -> int:
    fields = Path(f"/proc/{service.process.pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def started(stream: BatchStream) -> BatchStream:
    next(stream)
    return stream


TOKENS = "alice aaaaaaaaaaaaaaaa, bob bbbbbbbbbbbbbbbb"


@contextmanager
def kept_busy(service: Service, path: str, streams: int) -> Iterator[None]:
    """Alice asks for more than the service can do, and reads all of it."""
    over = threading.Event()

    def read() -> None:
        with urllib3.PoolManager(retries=False) as pool:
            while not over.is_set():
                answer = pool.request(
                    "GET",
                    service.http + path,
                    headers={"Authorization": "Bearer aaaaaaaaaaaaaaaa"},
                    preload_content=False,
                )
                while not over.is_set() and answer.read(2**16):
                    pass
                answer.close()

    threads = [threading.Thread(target=read) for _ in range(streams)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize(
    ("path", "streams"),
    [
        # Each batch of it would take a core for some seconds.
        ("/batches?n=2&l=1&L=2&stop=9000&batch_size=3000&provenance=true", 3),
        ("/batches?format=ndjson&stop=3200", 30),
    ],
    ids=["provenance", "ndjson"],
)
def test_what_is_long_of_one_client_does_not_hold_up_another(path: str, streams: int) -> None:
    with running(METALM_TOKENS=TOKENS) as service, kept_busy(service, path, streams):
        with MetaLMClient(service.http, token="bbbbbbbbbbbbbbbb") as bob:
            bob.sample(L=5)
            taken = []
            for index in range(10):
                begun_at = time.monotonic()
                bob.sample(index, L=5, seed=1)
                taken.append(time.monotonic() - begun_at)
        # Seconds, if he had to wait for the end of somebody's batch, or for every encoder.
        assert sorted(taken)[5] < 2


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_whoever_waits_for_a_first_batch_at_the_end_may_ask_elsewhere(door: str) -> None:
    with (
        service_process.running("--drain-timeout-s", "1") as service,
        opened(getattr(service, door)) as client,
    ):
        ended: list[MetaLMError] = []

        def ask() -> None:
            try:
                client.sample(n=2**16, l=600, L=1, provenance=True)
            except MetaLMError as error:
                ended.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        eventually(lambda: assert_running(service))
        assert service.stop() == 0
        asking.join()
        assert len(ended) == 1
        assert ended[0].retryable, ended
    assert "Traceback" not in "".join(service.lines)


def assert_running(service: Service) -> None:
    text = urllib3.request("GET", f"{service.http}/metrics").data.decode()
    if "metalm_requests_in_flight 1.0" not in text:
        raise Unavailable("not yet")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_service_with_zero(number: signal.Signals) -> None:
    with service_process.running() as service:
        assert service.stop(number) == 0


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_a_running_stream_is_finished_before_the_end(door: str) -> None:
    with service_process.running() as service, opened(getattr(service, door)) as client:
        batches = client.batches(L=2**14, count=100)
        first = next(batches)
        service.process.send_signal(signal.SIGTERM)
        assert len(list(batches)) == 99
        assert first.first == 0
        assert service.process.wait(20) == 0


def test_while_draining_new_requests_are_refused_and_health_says_so() -> None:
    with service_process.running() as service:
        channel = grpc.insecure_channel(service.grpc.removeprefix("grpc://"))
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        with opened(service.http) as client:
            held = client.batches(L=2**14, count=100)
            next(held)
            service.process.send_signal(signal.SIGTERM)
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            with opened(service.http) as other, pytest.raises(Unavailable):
                other.sample(L=5)
            with opened(service.grpc) as other, pytest.raises(Unavailable):
                other.sample(L=5)
            assert len(list(held)) == 99
        channel.close()
        assert service.process.wait(20) == 0


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_a_second_signal_ends_it_at_once(door: str) -> None:
    with service_process.running("--drain-timeout-s", "600") as service:
        with opened(getattr(service, door)) as client:
            stalled = client.batches(L=2**14)
            next(stalled)
            service.process.send_signal(signal.SIGINT)
            host, port = service.http.removeprefix("http://").split(":")
            until = time.monotonic() + 20
            with suppress(OSError):  # the first one has been heard when nobody listens any more
                while time.monotonic() < until:
                    socket.create_connection((host, int(port))).close()
            assert service.stop(signal.SIGINT) == 0


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_a_reader_that_never_reads_does_not_hold_up_the_end(door: str) -> None:
    with service_process.running("--drain-timeout-s", "1") as service:
        with opened(getattr(service, door)) as client:
            stalled = client.batches(L=2**14)
            next(stalled)
            began = time.monotonic()
            assert service.stop() == 0
            assert time.monotonic() - began < 15
            with pytest.raises(MetaLMError):
                for _ in range(1000):
                    next(stalled)
    assert "Traceback" not in "".join(service.lines)


COMPILED_S = 100
"""What the kernels may take to compile on a machine that does other things too."""


@contextmanager
def starting_cold(cache: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A service that has its kernels to compile first, and its HTTP port, which answers."""
    port = free_port()
    process = service_process.metalm(
        "serve", "--port", str(port), "--grpc-port", "0", NUMBA_CACHE_DIR=str(cache)
    )
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.01)
        yield process, port
    finally:
        process.terminate()
        process.communicate(timeout=COMPILED_S)
    assert process.returncode == 0


def test_the_service_answers_while_its_kernels_compile(tmp_path: Path) -> None:
    """Alive at once, ready later: a cold cache must not look like a dead process."""
    with starting_cold(tmp_path) as (_, port), urllib3.PoolManager(retries=False) as pool:
        base = f"http://127.0.0.1:{port}"
        assert pool.request("GET", f"{base}/healthz").status == 200
        assert pool.request("GET", f"{base}/readyz").status == 503
        refused = pool.request("GET", f"{base}/sample?L=5")
        assert refused.json()["reason"] == "STARTING"
        assert refused.headers["Retry-After"] == "1"
        until = time.monotonic() + COMPILED_S
        while pool.request("GET", f"{base}/readyz").status != 200:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert pool.request("GET", f"{base}/sample?L=5").status == 200


def test_a_signal_during_the_start_ends_it_too(tmp_path: Path) -> None:
    with starting_cold(tmp_path) as (process, _):
        process.terminate()


@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        (["--port", "65536"], {}, ["--port", "65536", "65535"]),
        (["--port", "http"], {}, ["--port", "http"]),
        (["--grpc-port", "-1"], {}, ["--grpc-port", "-1"]),
        ([], {"METALM_PORT": "x"}, ["METALM_PORT", "x", "65535"]),
        ([], {"METALM_MAX_MESSAGE_BYTES": "0"}, ["METALM_MAX_MESSAGE_BYTES", "0", "1024"]),
        (["--max-inflight-bytes", "4096"], {}, ["max_inflight_bytes", "4096", "max_message_bytes"]),
        (["--drain-timeout-s", "nan"], {}, ["--drain-timeout-s", "nan", "3600"]),
        (["--threads", "0"], {}, ["--threads", "0", "1024"]),
        (["--host", "203.0.113.1"], {}, ["203.0.113.1"]),
        (["--host", "not a host"], {}, ["not a host"]),
        (["--host", ""], {}, ["host"]),
    ],
    ids=str,
)
def test_a_broken_configuration_ends_the_start_with_one_line(
    arguments: list[str], environment: dict[str, str], named: list[str]
) -> None:
    process = metalm("serve", *arguments, **environment)
    output, errors = process.communicate(timeout=30)
    assert process.returncode in (1, 2)
    assert output == ""
    assert len(errors.splitlines()) == 1, errors
    for part in named:
        assert part in errors


def test_a_port_in_use_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for flag, other in (("--port", "--grpc-port"), ("--grpc-port", "--port")):
            process = metalm("serve", flag, port, other, "0")
            _, errors = process.communicate(timeout=30)
            assert process.returncode == 1
            assert port in errors
            assert len(errors.splitlines()) == 1, errors


def test_flags_come_before_the_environment() -> None:
    with running(METALM_PORT="1", METALM_MAX_REQUEST_SAMPLES="7") as service:
        answer = urllib3.request("GET", f"{service.http}/describe").json()
        assert answer["limits"]["max_request_samples"] == 7


def test_many_clients_at_once_all_get_their_bytes(service: Service) -> None:
    twin = [b.digest for b in MetaLMClient().batches(L=512, seed=4, count=20)]
    found: list[list[int]] = []

    def run(url: str) -> None:
        with MetaLMClient(url) as client:
            found.append([b.digest for b in client.batches(L=512, seed=4, count=20)])

    threads = [
        threading.Thread(target=run, args=(url,)) for url in (service.http, service.grpc) * 6
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [twin] * 12


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
