"""Every numeric field at values that break programs, past the client's own checks: one verdict, in
the same words, through both doors and in process; and nothing is allocated for it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import urllib3

from metalm import Spec
from metalm_proto.errors import InvalidArgument, MetaLMError
from metalm_proto.fields import U64, Field
from metalm_proto.spec import BATCH_SIZE, SEED, SPEC_FIELDS, START, STRIDE
from metalm_proto.v1 import metalm_pb2 as pb
from tests.fuzz.bounds import SMALL, Verdict, grpc_verdict, http_verdict, message_of
from tests.service_process import Service
from tests.vitals import peak_mib

FIELDS = (*(f for f in SPEC_FIELDS if f.kind in (int, float)), SEED, START, BATCH_SIZE, STRIDE)
VALUES = (-1, 0, 2**31, 2**63 - 1, 2**64, 10**12, math.nan, math.inf, -math.inf, "1e400", "-1e400", "5", "true", "", " 7", "0x10", "1_000", "٣")  # fmt: skip


@pytest.fixture(scope="module")
def pool() -> Iterator[urllib3.PoolManager]:
    with urllib3.PoolManager(retries=False, timeout=60) as opened:
        yield opened


@pytest.fixture(scope="module")
def channel(service: Service) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(service.grpc.removeprefix("grpc://")) as opened:
        yield opened


def ends(field: Field) -> list[int | float]:
    """The bounds, and the next numbers beyond them."""
    found: list[int | float] = []
    for end, way in ((field.lower, -1), (field.upper, 1)):
        if end is not None:
            beyond = math.nextafter(end, way * math.inf) if field.kind is float else int(end) + way
            found += [float(end) if field.kind is float else end, beyond]
    return found


def contract(field: Field, text: str) -> Verdict | None:
    """What the field's own description says to a text; None if it is within bounds."""
    try:
        field.parse(text)
    except InvalidArgument as error:
        return (error.reason, error.field, error.value, error.bound)
    return None


def message_or_none(values: dict[str, Any]) -> pb.StreamBatchesRequest | None:
    """The message, if the wire has room for such values."""
    try:
        return message_of(values)
    except (TypeError, ValueError):
        return None


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_both_doors_say_the_same_to_any_number(
    service: Service, pool: urllib3.PoolManager, channel: grpc.Channel, field: Field
) -> None:
    before = peak_mib(service.process.pid)
    refused = 0
    for number in (*VALUES, *ends(field)):
        # As it arrives where the wire has types.
        value = float(number) if field.kind is float and isinstance(number, int) else number
        values = {**SMALL, field.name: value}
        found = http_verdict(pool, service.http, values)
        expected = contract(field, str(value))
        if expected is not None:
            assert found == expected, value
            assert str(field.upper) in found[3] or field.upper is None
            refused += 1
        # Within its own bounds it may still be too much beside the others.
        assert found[0] in ("OK", "INVALID_ARGUMENT", "LIMIT_EXCEEDED"), value
        message = message_or_none(values)
        if message is not None:
            assert grpc_verdict(channel, values, message) == found, value
    assert refused > len(VALUES) / 2
    assert peak_mib(service.process.pid) - before < 64


PRODUCTS: list[dict[str, Any]] = [
    {"L": 2**34, "batch_size": 2**31 - 1, "samples": 2**20},
    {"L": 2**34, "V": 2**31 - 3, "samples": 1},
    {"L": 2**26, "samples": 2**10, "batch_size": 2**10},
    {"samples": 2**63 - 1, "batch_size": 2**31 - 1, "L": 2**34, "V": 2**31 - 3},
    {"samples": 2**20 + 1, "L": 1, "batch_size": 1},
    {"samples": 2**63 - 1, "stride": 2**63 - 1, "batch_size": 2**31 - 1},
    {"n": 2**24 - 1, "l": 2.0**20, "provenance": True},
    {"start": U64 - 1, "samples": 2**63 - 1},
    {"start": U64 - 5, "samples": 7},
    {"samples": 2**63 - 1, "batch_size": 2**31 - 1, "stride": 2**31 - 2},
]  # fmt: skip


@pytest.mark.parametrize("changed", PRODUCTS, ids=str)
def test_products_that_overflow_are_refused_before_anything_is_allocated(
    service: Service, pool: urllib3.PoolManager, channel: grpc.Channel, changed: dict[str, Any]
) -> None:
    before = peak_mib(service.process.pid)
    values = SMALL | changed
    found = http_verdict(pool, service.http, values)
    assert found[0] in ("INVALID_ARGUMENT", "LIMIT_EXCEEDED")
    assert all(found)
    assert grpc_verdict(channel, values) == found
    assert peak_mib(service.process.pid) - before < 64


def test_of_several_wrong_fields_both_doors_name_the_same(
    service: Service, pool: urllib3.PoolManager, channel: grpc.Channel
) -> None:
    wrong: dict[str, Any] = {
        "stride": 0, "batch_size": 0, "language": 0, "mask_ratio": 2.0, "L": 0, "e": 1.0, "l": 0.0, "n": 0, "V": 1,
    }  # fmt: skip
    while wrong:
        values = {**wrong, **{name: v for name, v in SMALL.items() if name not in wrong}}
        found = http_verdict(pool, service.http, values)
        assert found == grpc_verdict(channel, values)
        if found[0] == "OK":
            break
        name = next(f.name for f in FIELDS if f.label == found[1])
        assert name in wrong
        del wrong[name]
    assert wrong.keys() == {"language"}  # 0 is right


@pytest.mark.parametrize("value", [True, "5", 5.5, None, [5], 2**64, math.nan, -1], ids=str)
@pytest.mark.parametrize("name", [f.name for f in SPEC_FIELDS if f.kind in (int, float)])
def test_python_values_of_other_types_are_refused_by_name(name: str, value: Any) -> None:
    field = next(f for f in SPEC_FIELDS if f.name == name)
    if value is None and field.default is None:
        return
    if field.kind is float and name == "l" and value == 5.5:
        return
    with pytest.raises(MetaLMError) as caught:
        Spec(**{name: value})
    assert caught.value.details()["field"] == field.label
    assert caught.value.details()["bound"] == field.bound
