"""The gRPC door, called with nothing but the generated code and grpcio."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from metalm import MetaLMClient
from metalm_proto.v1 import metalm_pb2 as pb
from metalm_proto.v1 import metalm_pb2_grpc
from tests.door import opened
from tests.fuzz import h2
from tests.service_process import Service

SERVICE = "metalm.v1.MetaLMService"


@pytest.fixture(scope="module")
def channel(service: Service) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(service.grpc.removeprefix("grpc://")) as opened:
        yield opened


@pytest.fixture
def stub(channel: grpc.Channel) -> metalm_pb2_grpc.MetaLMServiceStub:
    return metalm_pb2_grpc.MetaLMServiceStub(channel)


def test_sample_gives_one_batch(stub: metalm_pb2_grpc.MetaLMServiceStub) -> None:
    spec = pb.Spec(vocab_size=300, sequence_length=20)
    batch = stub.Sample(pb.SampleRequest(spec=spec, seed=3, first=5, size=2), timeout=20).batch
    twin = MetaLMClient("inprocess:").batch(5, V=300, L=20, seed=3, batch_size=2)
    assert batch.x == twin.x.tobytes()
    assert batch.y == twin.y.tobytes()
    assert (batch.first, list(batch.shape), batch.digest) == (5, [2, 20], twin.digest)
    assert batch.dtype == pb.DATA_TYPE_UINT16
    # The spec comes back with every default filled in.
    assert batch.spec.elements_number == 10
    assert batch.spec.profile == pb.PROFILE_METALM


def test_absent_fields_have_their_defaults(stub: metalm_pb2_grpc.MetaLMServiceStub) -> None:
    batch = stub.Sample(pb.SampleRequest(), timeout=20).batch
    assert list(batch.shape) == [1, 4096]
    assert batch.split == pb.SPLIT_TRAIN
    again = stub.Sample(pb.SampleRequest(seed=batch.seed), timeout=20).batch
    assert again == batch


def test_stream_gives_the_range(stub: metalm_pb2_grpc.MetaLMServiceStub) -> None:
    request = pb.StreamBatchesRequest(
        spec=pb.Spec(sequence_length=10), seed=1, start=7, samples=5, batch_size=2
    )
    answers = list(stub.StreamBatches(request, timeout=20))
    assert [(a.batch.first, a.batch.shape[0]) for a in answers] == [(7, 2), (9, 2), (11, 1)]


def test_describe(stub: metalm_pb2_grpc.MetaLMServiceStub) -> None:
    answer = stub.Describe(pb.DescribeRequest(spec=pb.Spec(vocab_size=70_000)), timeout=20)
    assert list(answer.generators) == ["metalm-1"]
    assert answer.token_ids.separator == 70_001
    assert answer.token_ids.dtype == pb.DATA_TYPE_INT32
    assert answer.limits.max_message_bytes > 0


@pytest.mark.parametrize(
    ("request_message", "code", "reason", "field"),
    [
        (pb.SampleRequest(spec=pb.Spec(vocab_size=-1)), "INVALID_ARGUMENT", "", "vocab_size (V)"),
        (pb.SampleRequest(spec=pb.Spec(vocab_size=2**32 + 64)), "INVALID_ARGUMENT", "", "vocab_size (V)"),
        (pb.SampleRequest(spec=pb.Spec(error_rate=float("nan"))), "INVALID_ARGUMENT", "", "error_rate (e)"),
        (pb.SampleRequest(spec=pb.Spec.FromString(b"\x38\x09")), "INVALID_ARGUMENT", "", "profile"),
        (pb.SampleRequest.FromString(b"\x18\x09"), "INVALID_ARGUMENT", "", "split"),
        (pb.SampleRequest(size=0), "INVALID_ARGUMENT", "", "size"),
        (pb.SampleRequest(first=2**64 - 1, size=2), "INVALID_ARGUMENT", "", "size"),
        (pb.SampleRequest(size=2**40), "INVALID_ARGUMENT", "", "size"),
        (pb.SampleRequest(size=2**21), "INVALID_ARGUMENT", "LIMIT_EXCEEDED", "samples"),
        (pb.SampleRequest(generator="metalm-9"), "NOT_FOUND", "UNKNOWN_GENERATOR", "generator"),
        (pb.StreamBatchesRequest(), "INVALID_ARGUMENT", "", "samples"),
        (pb.StreamBatchesRequest(samples=2**63 - 1, start=2**63 + 9), "INVALID_ARGUMENT", "", "stop"),
    ],
    ids=str,
)  # fmt: skip
def test_errors_have_code_reason_and_field(
    stub: metalm_pb2_grpc.MetaLMServiceStub,
    request_message: pb.SampleRequest | pb.StreamBatchesRequest,
    code: str,
    reason: str,
    field: str,
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        if isinstance(request_message, pb.SampleRequest):
            stub.Sample(request_message, timeout=20)
        else:
            list(stub.StreamBatches(request_message, timeout=20))
    status = rpc_status.from_call(caught.value)
    assert caught.value.code().name == code
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.domain, info.reason) == ("metalm", reason or "INVALID_ARGUMENT")
    assert info.metadata["field"] == field
    assert info.metadata["bound"] in (caught.value.details() or "")


def test_health_says_serving(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for name in ("", SERVICE):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=20)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_the_service(channel: grpc.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=20)
    assert SERVICE in {service.name for service in answer.list_services_response.service}


def test_a_cancelled_stream_frees_its_place(service: Service, channel: grpc.Channel) -> None:
    """More streams than the server takes at one time, each left after its first batch."""
    stub = metalm_pb2_grpc.MetaLMServiceStub(channel)
    request = pb.StreamBatchesRequest(spec=pb.Spec(), seed=1, samples=2**20, batch_size=32)
    for _ in range(150):
        call = stub.StreamBatches(request, timeout=60)
        next(call)
        call.cancel()
    with MetaLMClient(service.grpc) as client:
        client.sample(L=5, seed=1)


def test_bytes_that_are_no_message_are_the_callers_fault(channel: grpc.Channel) -> None:
    for method in ("Describe", "Sample", "StreamBatches"):
        call: Any = channel.unary_stream(f"/{SERVICE}/{method}")
        with pytest.raises(grpc.RpcError) as caught:
            list(call(b"\xff\xff\xff", timeout=20))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "metalm.v1." in (caught.value.details() or "")


def assert_no_traceback(lines: list[str]) -> None:
    """A line a call at most."""
    assert len(lines) <= 2, lines
    assert not any("Traceback" in line for line in lines)


@pytest.mark.parametrize("method", ["Health/Check", "Health/Watch"])
def test_health_calls_bytes_that_are_no_message_the_callers_fault(
    service: Service, channel: grpc.Channel, method: str
) -> None:
    told = len(service.lines)
    call: Any = channel.unary_stream(f"/grpc.health.v1.{method}")
    with pytest.raises(grpc.RpcError) as caught:
        next(call(b"\xff\xff\xff", timeout=20))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert_no_traceback(service.lines[told:])


def test_reflection_calls_bytes_that_are_no_message_the_callers_fault(
    service: Service, channel: grpc.Channel
) -> None:
    told = len(service.lines)
    call: Any = channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    )
    with pytest.raises(grpc.RpcError) as caught:
        next(call(iter([b"\xff\xff\xff"]), timeout=20))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert_no_traceback(service.lines[told:])


def test_headers_that_are_no_text_fill_no_log(service: Service) -> None:
    """gRPC would print a traceback for each of them, and a caller can send thousands in a KiB."""
    parts = urlsplit(service.grpc)
    told = len(service.lines)
    fields = [(b"x", b"\xff\xfe"), (b"te", b"\x89\n\x1b[31m"), (b":status", b"\x89")]
    block = h2.headers("Describe", *fields * 100)
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        peer = h2.Peer(connection, patience_s=5)
        peer.greet()
        peer.send(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, block))
        peer.send(h2.frame(h2.DATA, h2.END_STREAM, 1, h2.message(b"")))
        # Older ones of gRPC say nothing to it.
        with suppress(TimeoutError):
            while 1 not in peer.ended:
                peer.wait()
    with opened(service.grpc) as client:
        client.sample(L=5, seed=1)
    assert_no_traceback(service.lines[told:])
    assert not any("hpack" in line for line in service.lines[told:])
