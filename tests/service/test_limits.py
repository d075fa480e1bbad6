"""How far a spec may go on a server is where its requests begin to be refused; what each gets."""

from __future__ import annotations

from dataclasses import astuple, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalm_proto.errors import LimitExceeded
from metalm_proto.spec import SPEC_FIELDS, BatchRequest, Spec
from metalm_service import limits
from metalm_service.config import ServerConfig
from metalm_service.handler import Handler
from metalm_service.limits import PLAIN, TOGETHER, Encoding
from tests.proto.strategies import requests

LOWER = {field.name: field.lower for field in SPEC_FIELDS}
UPPER = {field.name: field.upper for field in SPEC_FIELDS}


@pytest.mark.parametrize(
    "config",
    [{}, {"max_message_bytes": 2**16}, {"max_request_cpu_s": 1}, {"max_inflight_bytes": 2**28 + 1}],
)
@pytest.mark.parametrize(
    "spec",
    [{}, {"V": 70_000, "n": 2, "l": 0.5, "L": 1, "profile": "metagym"}, {"n": 10**5, "l": 3}],
)
def test_one_more_is_too_much(config: dict[str, Any], spec: dict[str, Any]) -> None:
    server, asked = ServerConfig(**config), Spec(**spec)

    def check(**changed: Any) -> None:
        request = BatchRequest.single(spec=replace(asked, **changed), seed=0, provenance=True)
        limits.check(server, request)

    described = Handler(server).describe(asked).reach
    assert described is not None
    found = dict(zip("VnlL", astuple(described), strict=True))
    for name, most in found.items():
        if most:
            check(**{name: most})
        if most < (UPPER[name] or 0):
            with pytest.raises(LimitExceeded):
                check(**{name: max(most + 1, LOWER[name] or 0)})


def test_limits_are_felt() -> None:
    wide, tight = (
        Handler(ServerConfig(max_message_bytes=most)).describe(Spec()).reach
        for most in (2**26, 2**16)
    )
    assert wide is not None
    assert tight is not None
    assert tight.L < 2**16 // 15 < wide.L
    assert (wide.V, wide.l) == (UPPER["V"], UPPER["l"])


@pytest.mark.parametrize(
    ("config", "spec", "size", "encoding", "together"),
    [
        # 64 KiB each.
        ({}, {"L": 2**12}, 8, TOGETHER, 16),
        ({}, {"L": 2**12}, 8, PLAIN, 1),
        ({}, {"L": 2**12, "V": 300}, 8, TOGETHER, 8),
        ({}, {"L": 2**17}, 8, TOGETHER, 1),
        ({"max_message_bytes": 2**17}, {"L": 2**12}, 8, TOGETHER, 2),
        # What each of all requests can have.
        ({"max_requests": 1024}, {"L": 2**12}, 8, TOGETHER, 2),
        # For their bytes there could be more.
        ({}, {"L": 1}, 1, TOGETHER, 49),
        ({}, {"L": 1}, 2**15, TOGETHER, 1),
    ],
)
def test_batches_are_made_together_while_they_are_small_and_cheap(
    config: dict[str, Any], spec: dict[str, Any], size: int, encoding: Encoding, together: int
) -> None:
    request = BatchRequest(spec=Spec(**spec), seed=1, stop=min(1000 * size, 2**20), batch_size=size)
    assert limits.check(ServerConfig(**config), request, encoding).batches_in_turn == together


def test_no_more_is_made_together_than_was_asked_for() -> None:
    request = BatchRequest(spec=Spec(L=1), seed=1, stop=3, batch_size=1)
    alone = limits.check(ServerConfig(), request)
    found = limits.check(ServerConfig(), request, TOGETHER)
    assert (alone.batches_in_turn, found.batches_in_turn) == (1, 3)
    assert found.reserved_bytes > alone.reserved_bytes


@given(requests(most=1000), st.integers(20, 30), st.integers(1, 10_000))
def test_nobody_is_refused_for_what_is_made_together(
    request: BatchRequest, bits: int, places: int
) -> None:
    config = ServerConfig(
        max_inflight_bytes=2**bits, max_message_bytes=2 ** (bits - 2), max_requests=places
    )
    try:
        alone = limits.check(config, request)
    except LimitExceeded:
        return
    found = limits.check(config, request, TOGETHER)
    assert found.reserved_bytes <= max(alone.reserved_bytes, 2**bits // places)
