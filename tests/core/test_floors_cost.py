"""What is said of the cost of floors beforehand, against what they take."""

from __future__ import annotations

import time
import tracemalloc

import pytest

pytest.importorskip("numba")

from metalm_proto.errors import InvalidArgument
from metalm_proto.spec import Spec, Split
from metalm_service.core.floors import LADDER, cost_of, losses, warm

DEAREST = [
    (Spec(), LADDER),
    (Spec(V=16, n=20, l=8, e=0.2), LADDER),
    (Spec(V=1024, n=1000, l=64), ("genie", "known", "bayes-1024")),
    (Spec(V=2, n=1000, l=3, e=0.3), ("genie", "greedy", "vote", "bayes-4096")),
    (Spec(V=2**30, n=1, l=1, e=0.99, mask_ratio=0), ("genie", "last-copy", "bayes-4096")),
    (Spec(V=2, n=300, l=100, e=0.6, mask_ratio=0), ("greedy", "known", "bayes-4096")),
    (Spec(n=5000, l=20, L=200), ("known",)),
    (Spec(V=2**20, e=0.9, L=2**15), ("suffix",)),
    (Spec(l=2**20, L=2000), ("content-free",)),
    (Spec(L=1), LADDER),
]


def spent_s(spec: Spec, count: int, names: tuple[str, ...]) -> float:
    begun = time.process_time()
    losses(spec, 3, Split.TEST, 0, count, names)
    return time.process_time() - begun


@pytest.fixture(scope="module")
def slowness() -> float:
    """How many times as long as it should an everyday request takes here."""
    warm()
    spent_s(Spec(), 2, ("genie",))
    # 60 ns a token, where this was written.
    return max(1.0, min(spent_s(Spec(), 4, ("genie",)) for _ in range(3)) / (4 * 4096 * 60e-9))


@pytest.mark.parametrize(("spec", "names"), DEAREST, ids=str)
def test_nothing_takes_longer_than_was_said(
    spec: Spec, names: tuple[str, ...], slowness: float
) -> None:
    said_s = cost_of(spec, 2, names).cpu_s
    spent_s(spec, 1, names)
    assert min(spent_s(spec, 2, names) for _ in range(2)) <= 1.5 * slowness * said_s


@pytest.mark.parametrize(("spec", "names"), DEAREST, ids=str)
def test_nothing_takes_more_memory_than_was_said(spec: Spec, names: tuple[str, ...]) -> None:
    """As far as Python sees it: the kernels' own buffers it does not."""
    cost = cost_of(spec, 2, names)
    losses(spec, 3, Split.TEST, 0, 1, names)
    tracemalloc.start()
    try:
        losses(spec, 3, Split.TEST, 0, 2, names)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cost.result_bytes == 2 * spec.L * 4 * len(names)
    assert peak <= cost.result_bytes + cost.scratch_bytes


def test_the_bound_is_not_far_above() -> None:
    """At the published settings the bracket costs what it says within a factor of 10."""
    spec = Spec(V=64, n=10, l=32)
    said_s = cost_of(spec, 64, ("genie", "greedy")).cpu_s
    assert 64 * spec.L / said_s > 1e6


def test_a_huge_request_is_refused_unseen() -> None:
    spec = Spec(L=2**34, n=2**24 - 1, l=2**20)
    begun = time.process_time()
    cost = cost_of(spec, 2**31 - 1, LADDER)
    assert time.process_time() - begun < 0.01
    assert cost.cpu_s > 1e12
    assert cost.tokens == 2**34 * (2**31 - 1)
    with pytest.raises(InvalidArgument):
        cost_of(spec, 1, ["best"])
