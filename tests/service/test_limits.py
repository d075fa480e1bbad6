"""How far a spec may go on a server is where its requests begin to be refused."""

from __future__ import annotations

from dataclasses import astuple, replace
from typing import Any

import pytest

from metalm_proto.errors import LimitExceeded
from metalm_proto.spec import SPEC_FIELDS, BatchRequest, Spec
from metalm_service import limits
from metalm_service.config import ServerConfig
from metalm_service.handler import Handler

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
