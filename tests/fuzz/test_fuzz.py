"""The short form of `make fuzz`."""

from __future__ import annotations

import pytest

from tests.fuzz.campaigns import KINDS, Kind, Result, fuzz
from tests.service_process import Service, running


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.run.__name__)
def test_nothing_breaks_the_server(service: Service, kind: Kind) -> None:
    if kind.flags:
        with running(*kind.flags) as other:
            judge(kind, fuzz(other, kind, times=1, seed=1))
    else:
        judge(kind, fuzz(service, kind, times=1, seed=1))


def judge(kind: Kind, result: Result) -> None:
    assert not result.tally.findings, "\n".join(result.tally.findings[:20])
    assert result.tally.cases >= kind.cases / 2
