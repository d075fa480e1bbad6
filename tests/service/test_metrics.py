"""What is counted agrees with what clients saw, and nothing that they do makes it grow."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
import urllib3
from grpc_health.v1 import health_pb2, health_pb2_grpc

from metalm import LimitExceeded, MetaLMClient, MetaLMError, Overloaded
from metalm_proto import wire
from metalm_proto.batch import Batch
from metalm_proto.errors import ERRORS
from metalm_proto.v1 import metalm_pb2 as pb
from metalm_service.config import ServerConfig
from metalm_service.handler import Handler
from metalm_service.metrics import Metrics
from tests.door import opened
from tests.forked import running
from tests.proxy import Proxy
from tests.scraped import OPENMETRICS, Scrape, grown, scrape, scraped_when
from tests.service_process import Service

DOORS = ["http", "grpc"]
ROOM = 17 * 2**19
SUMS = ("batches", "samples", "tokens", "sent_bytes")


@pytest.fixture(scope="module")
def counted() -> Iterator[Service]:
    """A service for these tests alone, with room for two streams of 1 MiB batches."""
    limits = ("--max-message-bytes", str(2**20), "--max-inflight-bytes", str(ROOM))
    with running(*limits, "--max-client-share", "1", "--log-level", "warning") as service:
        yield service


def sums(before: Scrape, after: Scrape, door: str) -> list[float]:
    return [grown(before, after, f"metalm_{name}_total", door=door) for name in SUMS]


def encoded_bytes(batch: Batch, door: str) -> int:
    buffers = wire.encode_batch(batch)
    if door == "grpc":
        return len(wire.batch_response(buffers))
    return sum(map(len, wire.length_prefixed(buffers)))


@pytest.mark.parametrize("door", DOORS)
def test_the_sums_are_those_of_the_client(counted: Service, door: str) -> None:
    before = scrape(counted.http)
    seen = [0, 0, 0, 0]
    with MetaLMClient(getattr(counted, door)) as client:
        runs: list[dict[str, Any]] = [
            {"L": 64, "batch_size": 7, "stop": 1000},
            {"L": 300, "V": 70_000, "batch_size": 32, "count": 40},
            {"L": 50, "batch_size": 3, "count": 5, "provenance": True},
        ]
        for run in runs:
            for batch in client.batches(seed=1, **run):
                batch.verify()
                size = encoded_bytes(batch, door)
                told = (1, batch.size, batch.size * batch.spec.L, size)
                seen = [sum(pair) for pair in zip(seen, told, strict=True)]
    after = scrape(counted.http)
    assert sums(before, after, door) == seen
    assert grown(before, after, "metalm_generation_seconds_count", door=door) == seen[0]
    # Of the last batch of a call its reader may know before the door does.
    taken = grown(before, after, "metalm_send_seconds_count", door=door)
    assert seen[0] - grown(before, after, "metalm_requests_total", door=door) <= taken <= seen[0]
    assert grown(before, after, "metalm_generation_cpu_seconds_total", door=door) > 0
    other = DOORS[1 - DOORS.index(door)]
    assert sums(before, after, other) == [0, 0, 0, 0]


@pytest.mark.parametrize("door", DOORS)
def test_the_replicas_of_a_run_have_sent_it_together(counted: Service, door: str) -> None:
    with running() as second:
        services = (counted, second)
        before = [scrape(service.http) for service in services]
        with MetaLMClient([getattr(service, door) for service in services]) as client:
            run = client.batches(L=256, seed=1, batch_size=16, count=300, prefetch_bytes=2**20)
            samples = sum(batch.size for batch in run)
        after = [scrape(service.http) for service in services]
        shares = [sums(*pair, door)[1] for pair in zip(before, after, strict=True)]
    assert samples == 4800
    # A replica that seemed slow may have been helped by the other.
    assert sum(shares) >= samples
    assert all(0 < share < samples for share in shares)


@pytest.mark.parametrize("door", DOORS)
def test_after_a_cut_what_counts_is_no_less_and_not_the_rest(counted: Service, door: str) -> None:
    with Proxy(getattr(counted, door)) as proxy:
        before = scrape(counted.http)
        proxy.arm("cut", after=2**21)
        received = 0
        with opened(proxy.url) as client, pytest.raises(MetaLMError):
            for batch in client.batches(L=2**13, count=2**9):
                received += batch.size
    labels = {"door": door, "method": "StreamBatches", "outcome": "CANCELLED"}
    after = scraped_when(
        counted.http, lambda now: grown(before, now, "metalm_requests_total", **labels) == 1
    )
    # What gRPC has and has not handed over when its connection breaks, it throws away.
    sent = sums(before, after, door)[1]
    assert received <= sent
    assert 0 < sent < 32 * 2**9
    assert grown(before, after, "metalm_refusals_total") == 0


@pytest.mark.parametrize("door", DOORS)
def test_what_is_in_flight_comes_and_goes(counted: Service, door: str) -> None:
    def idle(now: Scrape) -> bool:
        return not now("metalm_requests_in_flight") and not now("metalm_bytes_in_flight")

    scraped_when(counted.http, idle)
    with opened(getattr(counted, door)) as client:
        stream = client.batches(L=2**13)
        next(stream)
        now = scrape(counted.http)
        assert now("metalm_requests_in_flight") == 1
        # Three copies of a batch, and some room to work in.
        assert 4 * 2 * 32 * 2**13 <= now("metalm_bytes_in_flight") < 5 * 2 * 32 * 2**13
        assert now("metalm_bytes_in_flight_limit") == ROOM
        stream.close()
    scraped_when(counted.http, idle)


def refused(door: str, reason: str) -> dict[str, str]:
    return {"door": door, "reason": reason}


@pytest.mark.parametrize("door", DOORS)
def test_refusals_have_their_reasons(counted: Service, door: str) -> None:
    before = scrape(counted.http)
    with opened(getattr(counted, door)) as client:
        for _ in range(3):
            with pytest.raises(LimitExceeded):
                client.sample(L=2**20)
        streams = [client.batches(L=2**14) for _ in range(2)]
        for stream in streams:
            next(stream)
        with pytest.raises(Overloaded):
            client.sample(L=2**17)
        for stream in streams:
            stream.close()
    after = scrape(counted.http)
    for reason, count in {"LIMIT_EXCEEDED": 3, "OVERLOADED": 1}.items():
        assert grown(before, after, "metalm_refusals_total", **refused(door, reason)) == count
        outcome = {"door": door, "method": "StreamBatches", "outcome": reason}
        assert grown(before, after, "metalm_requests_total", **outcome) == count


def test_whatever_is_asked_the_series_are_few(counted: Service) -> None:
    """Hundreds of different paths, methods, parameters, ids and errors, through both doors."""
    before = scrape(counted.http)
    asked = 0
    with urllib3.PoolManager(retries=False, timeout=20) as pool:
        for number in range(300):
            paths = (
                f"/nothing-{number}",
                f"/sample?V={number - 100}&L={number + 1}&seed={number}&format=text",
                f"/batches?stop={number * 4}&L={number}&unknown{number}=1",
                f"/describe?V={number}",
                f"/readyz?{number}",
            )
            method = ("GET", "HEAD", "POST", "PATCH", "DELETE")[number % 5]
            for path in paths:
                headers = {"x-request-id": uuid.uuid4().hex, "user-agent": f"agent-{number}"}
                pool.request(method, counted.http + path, headers=headers)
                asked += 1
    with grpc.insecure_channel(counted.grpc.removeprefix("grpc://")) as channel:
        for number in range(300):
            calls = {
                f"/service-{number}/Method": b"",
                f"/metalm.v1.MetaLMService/Method{number}": b"",
                "/metalm.v1.MetaLMService/Sample": pb.SampleRequest(
                    spec=pb.Spec(vocab_size=number, sequence_length=number), seed=number
                ).SerializeToString(),
                "/metalm.v1.MetaLMService/Describe": bytes([number % 256]),
                "/grpc.health.v1.Health/Check": health_pb2.HealthCheckRequest(
                    service=str(number)
                ).SerializeToString(),
            }
            for path, message in calls.items():
                told = (("x-request-id", f"id-{number}"), (f"key-{number}", "value"))
                with suppress(grpc.RpcError):
                    channel.unary_unary(path)(message, metadata=told, timeout=20)
                asked += 1
    after = scrape(counted.http)
    # The scrapes count themselves: the one before is in this one.
    assert grown(before, after, "metalm_requests_total") == asked + 1
    assert len(after.series) <= 500
    assert len(scrape(counted.http, OPENMETRICS).series) <= 500
    allowed = {
        "http",
        "grpc",
        "Sample",
        "StreamBatches",
        "Describe",
        "Health",
        "Metrics",
        "Page",
        "Other",
    }
    allowed |= {error.reason for error in ERRORS} | {"OK", "CANCELLED", "NO_SUCH_METHOD"}
    for series in after.series:
        chosen = {
            v for k, v in series.labels.items() if k in ("door", "method", "outcome", "reason")
        }
        assert chosen <= allowed


def test_not_even_all_outcomes_of_all_methods_are_too_many() -> None:
    metrics = Metrics(Handler(ServerConfig()))
    labels = metrics._requests
    from metalm_service.calls import DOORS, METHODS, OUTCOMES

    for door in DOORS:
        for method in METHODS:
            for outcome in OUTCOMES:
                labels.labels(door, method, outcome).inc()
    assert sum(len(metric.samples) for metric in metrics.collect()) <= 500


def test_names_are_prometheus_own_way(counted: Service) -> None:
    found = scrape(counted.http, OPENMETRICS)
    for metric in found.metrics:
        assert metric.name.startswith(("metalm_", "process_"))
        assert metric.documentation
        for series in metric.samples:
            assert not series.name.endswith("_created")
            assert series.name.endswith("_total") == (metric.type == "counter")


def test_both_forms_tell_the_same(counted: Service) -> None:
    def own(form: str) -> set[tuple[str, Any]]:
        return {
            (series.name, tuple(sorted(series.labels.items())))
            for series in scrape(counted.http, form).series
        }

    # A scrape that is the service's first is not in what it tells.
    scraped_when(counted.http, lambda now: now("metalm_requests_total", method="Metrics") > 0)
    assert own("text/plain") == own(OPENMETRICS)


@pytest.mark.parametrize(
    "accept",
    ["*/*", "", "application/openmetrics-text;version=zz", "text/plain;version=9", "image/png;q=x"],
)
def test_every_accept_header_has_an_answer(counted: Service, accept: str) -> None:
    headers = {"Accept": accept}
    answer = urllib3.request("GET", f"{counted.http}/metrics", headers=headers, retries=False)
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"


def test_the_build_and_the_state_are_told(counted: Service) -> None:
    found = scrape(counted.http)
    (build,) = [series for series in found.series if series.name == "metalm_build_info"]
    with MetaLMClient(counted.http) as client:
        description = client.describe()
    assert build.labels == {
        "version": description.version,
        "generators": ",".join(description.generators),
        "engine": description.engine,
    }
    assert found("metalm_ready") == 1
    assert found("metalm_state", state="ready") == found("metalm_state") == 1
    assert found("process_resident_memory_bytes") > 2**20


def test_each_handler_has_metrics_of_its_own() -> None:
    handlers = [Handler(ServerConfig()) for _ in range(2)]
    metrics = [Metrics(handler) for handler in handlers]
    handlers[0].drain()
    states = [
        {
            sample.labels["state"]: sample.value
            for metric in each.collect()
            for sample in metric.samples
            if sample.name == "metalm_state"
        }
        for each in metrics
    ]
    assert states == [
        {"starting": 0, "ready": 0, "draining": 1},
        {"starting": 1, "ready": 0, "draining": 0},
    ]


def test_probes_count_as_probes(counted: Service) -> None:
    before = scrape(counted.http)
    urllib3.request("GET", f"{counted.http}/healthz")
    with grpc.insecure_channel(counted.grpc.removeprefix("grpc://")) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
    after = scrape(counted.http)
    for door in DOORS:
        labels = {"door": door, "method": "Health", "outcome": "OK"}
        assert grown(before, after, "metalm_requests_total", **labels) == 1
