"""Requests at the bounds of every field, through both doors: one verdict, in the same words."""

from __future__ import annotations

import json
import math
import random
from typing import Any
from urllib.parse import urlencode

import grpc
import urllib3
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from metalm.transports import connect
from metalm_proto import messages, protobuf, wire
from metalm_proto.errors import MetaLMError
from metalm_proto.fields import U64, Field
from metalm_proto.spec import BATCH_SIZE, SEED, SPEC_FIELDS, START, STRIDE, BatchRequest
from metalm_proto.v1 import metalm_pb2 as pb
from tests.fuzz.target import ANSWER_S, Tally, Target

_METHOD = "/metalm.v1.MetaLMService/StreamBatches"
_INTEGERS = (-(2**63), -1, 0, 1, 2, 3, 40, 2**31 - 1, 2**31, 2**32, 10**12, 2**40, 2**63 - 1)
_NUMBERS = (-math.inf, -1.0, -0.0, 5e-324, 1e-9, 0.5, 1.0, 2.0**20, 1e300, math.inf, math.nan)
_CHEAP = 2**22
"""Tokens: more than that is only asked for if it will be refused."""

Verdict = tuple[str, ...]
"""The reason, field, value and bound of a refusal; "OK" and the digests of what was given."""


def _values(field: Field) -> st.SearchStrategy[Any]:
    """Values inside and outside of the bounds that fit the field's type on the wire."""
    if field.kind is float:
        ends = [float(end) for end in (field.lower, field.upper) if end is not None]
        near = [math.nextafter(end, way) for end in ends for way in (-math.inf, math.inf)]
        return st.sampled_from([*_NUMBERS, *ends, *near]) | st.floats()
    low, high = (
        (0, U64 - 1) if field.name in ("seed", "start", "language") else (-(2**63), 2**63 - 1)
    )
    if field is _WINDOW:  # HTTP has no such field: for less it names another one
        low = 1
    ends = [end for end in (field.lower, field.upper) if end is not None]
    near = [int(end) + step for end in ends for step in (-1, 0, 1)]
    fit = [value for value in (*_INTEGERS, *near) if low <= value <= high]
    return st.sampled_from(fit) | st.integers(low, high)


_WINDOW = Field(name="samples", lower=1, upper=2**63 - 1, doc="length of the range")
_ALL = (
    *(f for f in SPEC_FIELDS if f.kind in (int, float)),
    SEED,
    START,
    _WINDOW,
    BATCH_SIZE,
    STRIDE,
)
SMALL: dict[str, Any] = {
    "V": 9,
    "n": 2,
    "l": 3.0,
    "L": 20,
    "seed": 1,
    "start": 0,
    "samples": 3,
    "batch_size": 2,
}


@st.composite
def _requests(draw: st.DrawFn) -> dict[str, Any]:
    """A small request of which some fields have been set to something else."""
    chosen = draw(st.lists(st.sampled_from(_ALL), min_size=1, max_size=4, unique=True))
    return {**SMALL, **{field.name: draw(_values(field)) for field in chosen}}


def bounds(target: Target, cases: int, source: random.Random) -> Tally:
    """The verdicts of both doors and of the library, over requests at their bounds."""
    tally = Tally("requests at their bounds")
    pool = urllib3.PoolManager(retries=False, timeout=ANSWER_S)
    channel = grpc.insecure_channel(
        target.grpc.removeprefix("grpc://"), [("grpc.max_receive_message_length", -1)]
    )
    twin = connect("inprocess:", timeout_s=ANSWER_S)

    @seed(source.getrandbits(32))
    @settings(
        max_examples=cases, database=None, deadline=None, derandomize=False,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(_requests())
    def compare(values: dict[str, Any]) -> None:
        expected, request = own_verdict(values)
        if request is not None:
            if not _cheap(request) and not _over_limits(request):
                return
            if _cheap(request):
                digests = [f"{batch.digest:x}" for batch in twin.batches(request)]
                expected = ("OK", *digests)
        by_http = http_verdict(pool, target.http, values)
        by_grpc = grpc_verdict(channel, values)
        tally.count(by_http[0])
        if by_http != by_grpc:
            tally.findings.append(f"{values}: {by_http} through HTTP, {by_grpc} through gRPC")
        elif expected != ("?",) and by_http != expected:
            tally.findings.append(f"{values}: {by_http}, and {expected} by the library")

    try:
        compare()
    finally:
        channel.close()
        pool.clear()
        twin.close()
    return tally


def own_verdict(values: dict[str, Any]) -> tuple[Verdict, BatchRequest | None]:
    """What the library says to a request; ("?",) for one that only a server can judge."""
    try:
        return ("?",), messages.stream_request_from_message(message_of(values))
    except MetaLMError as error:
        return (error.reason, *error.details().values()), None


def message_of(values: dict[str, Any]) -> pb.StreamBatchesRequest:
    spec = {f.long_name: values[f.name] for f in SPEC_FIELDS if f.name in values}
    others = {
        name: values[name]
        for name in ("seed", "start", "samples", "batch_size", "stride", "provenance")
        if name in values
    }
    return pb.StreamBatchesRequest(spec=pb.Spec(**spec), **others)


def http_verdict(pool: urllib3.PoolManager, base: str, values: dict[str, Any]) -> Verdict:
    """Of /batches, with `samples` spelt as `stop`."""
    query = {name: value for name, value in values.items() if name != "samples"}
    start = values["start"] if isinstance(values["start"], int) else 0
    query["stop"] = start + values["samples"]
    answer = pool.request("GET", f"{base}/batches?{urlencode(query)}", preload_content=False)
    try:
        if answer.status != 200:
            problem = json.loads(answer.read())
            return (
                problem["reason"],
                *(problem.get(name, "") for name in ("field", "value", "bound")),
            )
        data, position, digests = answer.read(), 0, []
        while position < len(data):
            length, position = protobuf.read_varint(data, position)
            digests.append(f"{wire.decode_batch(data[position : position + length]).digest:x}")
            position += length
        return ("OK", *digests)
    finally:
        answer.close()


def grpc_verdict(
    channel: grpc.Channel,
    values: dict[str, Any],
    message: Message | None = None,
    method: str = _METHOD,
) -> Verdict:
    """Of StreamBatches."""
    call: Any = channel.unary_stream(method)
    data = (message_of(values) if message is None else message).SerializeToString()
    try:
        return (
            "OK",
            *(
                f"{wire.batch_from_response(part).digest:x}"
                for part in call(data, timeout=ANSWER_S)
            ),
        )
    except grpc.RpcError as error:
        status, info = rpc_status.from_call(error), error_details_pb2.ErrorInfo()
        if status is None or not status.details[0].Unpack(info):
            return (f"{error.code().name} ({error.details()})",)
        return (info.reason, *(info.metadata[name] for name in ("field", "value", "bound")))


def _cheap(request: BatchRequest) -> bool:
    spec = request.spec
    return request.samples * (spec.L + spec.n * (1 + spec.l) + 64) <= _CHEAP


def _over_limits(request: BatchRequest) -> bool:
    """Of a server with the default configuration."""
    tokens = request.largest_batch * request.spec.L
    return request.samples > 2**20 or 2 * tokens * request.spec.dtype.itemsize > 2**26
