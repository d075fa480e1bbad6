"""Mutated and random protobuf messages, on real channels."""

from __future__ import annotations

import random
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status

from metalm_proto.v1 import metalm_pb2 as pb
from tests.fuzz.target import ANSWER_S, Tally, Target

_SERVICE = "/metalm.v1.MetaLMService/"
_SPEC = pb.Spec(
    vocab_size=64, elements_number=3, elements_length=4.0, error_rate=0.1, sequence_length=40,
    mask_ratio=0.3, profile=pb.PROFILE_METALM, language=7,
)  # fmt: skip
_VALID = {
    "Describe": pb.DescribeRequest(spec=_SPEC),
    "Sample": pb.SampleRequest(
        spec=_SPEC, seed=1, split=pb.SPLIT_TEST, first=3, size=2, generator="metalm-1", provenance=True
    ),
    "StreamBatches": pb.StreamBatchesRequest(
        spec=_SPEC, seed=1, split=pb.SPLIT_TEST, start=3, samples=6, batch_size=2,
        generator="metalm-1", provenance=True, stride=3,
    ),
}  # fmt: skip
_RIGHT = {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}
_LARGEST = 2**18


def messages(target: Target, cases: int, source: random.Random) -> Tally:
    """Every answer is a batch or an error that names its reason."""
    tally = Tally("gRPC messages")
    with grpc.insecure_channel(target.grpc.removeprefix("grpc://")) as channel:
        for _ in range(cases):
            method = source.choice(list(_VALID))
            data = _VALID[method].SerializeToString()
            for _ in range(source.randrange(1, 4)):
                data = _mutated(data, source)
            answer = _answer(channel, method, data)
            tally.count(answer)
            if answer not in _RIGHT:
                tally.findings.append(f"{method} {data[:300].hex()}: {answer}")
    return tally


def strangers(target: Target, cases: int, source: random.Random) -> Tally:
    """gRPC's own services, which every server has beside its own."""
    tally = Tally("gRPC health, reflection")
    asked: dict[str, Message] = {
        "health.v1.Health/Check": health_pb2.HealthCheckRequest(service=_SERVICE.strip("/")),
        "health.v1.Health/Watch": health_pb2.HealthCheckRequest(service=_SERVICE.strip("/")),
        "health.v1.Health/List": health_pb2.HealthCheckRequest(),
        "reflection.v1alpha.ServerReflection/ServerReflectionInfo": (
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=_SERVICE.strip("/"))
        ),
    }
    right = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED"}
    with grpc.insecure_channel(target.grpc.removeprefix("grpc://")) as channel:
        for _ in range(cases):
            method, message = source.choice(list(asked.items()))
            data = _mutated(message.SerializeToString(), source)
            streams = method.endswith("Info")
            ask: Any = (channel.stream_stream if streams else channel.unary_stream)(
                f"/grpc.{method}"
            )
            call = ask(iter([data]) if streams else data, timeout=ANSWER_S)
            try:
                next(call)
                answer = "OK"
            except grpc.RpcError as error:
                answer = error.code().name
            finally:
                call.cancel()
            tally.count(answer)
            if answer not in right:
                tally.findings.append(f"{method} {data[:300].hex()}: {answer}")
    return tally


def sizes(target: Target, cases: int, source: random.Random) -> Tally:
    """Messages about as long as they may be, and far longer ones, compressed or not."""
    tally = Tally("gRPC sizes")
    expected = {"OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED: ", "NOT_FOUND"}
    for number in range(cases):
        compression = grpc.Compression.Gzip if number % 2 else grpc.Compression.NoCompression
        size = source.choice((_LARGEST - 60, _LARGEST - 8, _LARGEST, _LARGEST + 1, 2**22, 2**24))
        # A field that nobody knows, of so many bytes.
        data = b"\xfa\x01" + _varint(size) + bytes(size)
        with grpc.insecure_channel(
            target.grpc.removeprefix("grpc://"), compression=compression
        ) as channel:
            answer = _answer(channel, source.choice(list(_VALID)), data)
        tally.count(answer.partition("(")[0])
        if answer.partition("(")[0] not in expected or (size > _LARGEST and answer == "OK"):
            tally.findings.append(f"{size} bytes, {compression.name}: {answer}")
    return tally


def paths(target: Target, cases: int, source: random.Random) -> Tally:
    """Methods that are none, and metadata of every kind."""
    tally = Tally("gRPC paths and metadata")
    alphabet = [*map(chr, range(0x21, 0x7F))]
    with grpc.insecure_channel(target.grpc.removeprefix("grpc://")) as channel:
        for _ in range(cases):
            name = "".join(source.choices(alphabet, k=source.randrange(1, 40)))
            path = source.choice((f"/{name}", f"{_SERVICE}{name}", f"{_SERVICE}Describe"))
            value = "".join(source.choices([" ", *alphabet], k=source.randrange(200)))
            metadata = [
                ("x-request-id", value),
                ("traceparent", value),
                ("authorization", value),
                ("extra-bin", source.randbytes(source.randrange(200))),
                ("user-agent", value),
                ("grpc-timeout" if source.random() < 0.1 else "other", "1H"),
            ]
            call: Any = channel.unary_unary(path)
            try:
                call(b"", metadata=metadata, timeout=ANSWER_S)
                answer = "OK"
            except grpc.RpcError as error:
                answer = _told(error)
            tally.count(answer.partition(":")[0])
            if answer.partition(":")[0] not in ("OK", "UNIMPLEMENTED", "UNAUTHENTICATED"):
                tally.findings.append(f"{path} {metadata}: {answer}")
    return tally


def _answer(channel: grpc.Channel, method: str, data: bytes) -> str:
    """The code; for one that the service did not explain itself, with what is said."""
    ask: Any = channel.unary_stream(_SERVICE + method)
    call = ask(data, timeout=ANSWER_S)
    try:
        next(call)
    except grpc.RpcError as error:
        return _told(error)
    finally:
        call.cancel()
    return "OK"


def _told(error: grpc.RpcError) -> str:
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    if status is None or not status.details or not status.details[0].Unpack(info):
        return f"{error.code().name}: ({error.details()})"
    named = info.metadata["field"] and info.metadata["value"] and info.metadata["bound"]
    return error.code().name if named else f"{error.code().name} without a field: {info}"


def _mutated(data: bytes, source: random.Random) -> bytes:
    """One of the things that happen to messages, or that people do to them."""
    place = source.randrange(len(data) + 1)
    kind = source.randrange(9)
    if kind == 0:
        return data[:place]
    if kind == 1 and data:
        altered = bytearray(data)
        altered[place % len(data)] ^= 1 << source.randrange(8)
        return bytes(altered)
    if kind == 2:  # again, as a whole: the last value of a field counts, and messages are merged
        return data + data[place:]
    if kind == 3:
        return data[:place] + source.randbytes(source.randrange(1, 20)) + data[place:]
    if kind == 4:  # a field that nobody knows, of any wire type, 3 and 4 being groups
        key = _varint(source.randrange(1, 2**29) << 3 | source.randrange(8))
        return data + key + source.randbytes(source.randrange(12))
    if kind == 5:  # a number at the end of what a varint holds, or longer
        key = _varint(source.randrange(1, 12) << 3)
        value = source.choice((2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**70))
        return data + key + _varint(value)
    if kind == 6:  # a length that is not so
        key = _varint(source.randrange(1, 12) << 3 | 2)
        return data + key + _varint(source.choice((1, 2**20, 2**31 - 1, 2**32, 2**63)))
    if kind == 7:  # groups in groups
        return data + b"\x0b" * source.choice((1, 50, 99, 101, 5000))
    return source.randbytes(source.randrange(200))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
