"""The short form of `make fuzz`."""

from __future__ import annotations

import pytest

from tests import forked
from tests.fuzz import bounds, http1, messages
from tests.fuzz.campaigns import KINDS, Kind, Result, fuzz
from tests.service_process import Service, running


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.run.__name__)
def test_nothing_breaks_the_server(service: Service, kind: Kind) -> None:
    if kind.flags:
        with forked.running(*kind.flags) as other:
            judge(kind, fuzz(other, kind, times=1, seed=1))
    else:
        judge(kind, fuzz(service, kind, times=1, seed=1))


def judge(kind: Kind, result: Result) -> None:
    assert not result.tally.findings, "\n".join(result.tally.findings[:20])
    assert result.tally.cases >= kind.cases / 3


def test_planted_defects_are_found() -> None:
    """In a server that leaks, and fails at what few ask for."""
    with running(program="tests.fuzz.planted") as service:
        by_grpc, by_http, by_both = (
            fuzz(service, kind, times=1, seed=1, settle_s=0).tally.findings
            for kind in (
                Kind(messages.messages, 60),
                Kind(http1.malformed, len(http1.known())),
                Kind(bounds.bounds, 60),
            )
        )
    for findings, named in (
        (by_grpc, "INTERNAL"),
        (by_http, "Accept: text/plain"),
        (by_http, "500"),
        (by_both, "through HTTP"),
        (by_both, "descriptors are left over"),
        (by_both, "memory grew by"),
        (by_grpc, "a traceback in the log"),
    ):
        assert any(named in finding for finding in findings), (named, findings[:20])
