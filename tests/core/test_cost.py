"""What is said of a request's cost beforehand, against what it takes."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace

import pytest

from metalm_proto.spec import BatchRequest, Spec
from metalm_service.core import reference
from metalm_service.core.cost import cost_of, longest_element
from metalm_service.core.engine import make_batch, warm
from metalm_service.core.poisson import length_table

DEAREST = [
    # Short elements are the dearest to speak, all the more when there are too many to write down.
    BatchRequest(spec=Spec(n=2**24 - 1, l=1e-9), seed=1, stop=1000, batch_size=500),
    BatchRequest(spec=Spec(n=1000, l=1, L=4000), seed=1, stop=1000, batch_size=500),
    BatchRequest(spec=Spec(V=2**30, n=2**24 - 1, l=3, L=10**6), seed=1, stop=2, batch_size=1),
    BatchRequest(spec=Spec(n=900, l=3, L=4096, language=5), seed=1, stop=1000, batch_size=500),
    BatchRequest(spec=Spec(n=2**18, l=3, L=2**13, language=5), seed=1, stop=512, batch_size=512),
    # Many small things.
    BatchRequest(spec=Spec(L=1), seed=1, stop=200_000, batch_size=100_000),
    BatchRequest(spec=Spec(L=1), seed=1, stop=500, batch_size=1),
    BatchRequest(spec=Spec(l=2**20, L=2**20), seed=1, stop=2, batch_size=1),
]
DEAREST_TO_TELL = [
    BatchRequest(spec=Spec(L=1), seed=1, stop=50, batch_size=50, provenance=True),
    BatchRequest(spec=Spec(n=10**5, l=1e-9, L=9), seed=1, stop=2, batch_size=1, provenance=True),
    BatchRequest(spec=Spec(n=3000, l=200, L=1), seed=1, stop=1, batch_size=1, provenance=True),
    BatchRequest(spec=Spec(n=10**6, l=3, L=10**4), seed=1, stop=1, batch_size=1, provenance=True),
    BatchRequest(spec=Spec(L=10**5), seed=1, stop=1, batch_size=1, provenance=True),
    BatchRequest(spec=Spec(n=2, l=2**17, L=9), seed=1, stop=1, batch_size=1, provenance=True),
]


def spent_s(request: BatchRequest) -> float:
    begun = time.process_time()
    for first, size in request.ranges():
        make_batch(request, first, size)
    return time.process_time() - begun


@pytest.fixture(scope="module")
def slowness() -> float:
    """How many times as long as it should an everyday request takes here."""
    warm()
    for request in (DEAREST[-2], DEAREST_TO_TELL[0]):
        spent_s(request)
    everyday = BatchRequest(spec=Spec(), seed=1, stop=2000, batch_size=1000)
    # 1.4 ns a token, where this was written.
    return max(1.0, min(spent_s(everyday) for _ in range(3)) / (everyday.samples * 4096 * 1.4e-9))


@pytest.mark.parametrize("request_", DEAREST + DEAREST_TO_TELL, ids=str)
def test_nothing_takes_longer_than_was_said(request_: BatchRequest, slowness: float) -> None:
    said_s = cost_of(request_, "numba").cpu_s
    assert min(spent_s(request_) for _ in range(2)) <= 1.5 * slowness * said_s


@pytest.mark.parametrize("request_", DEAREST + DEAREST_TO_TELL, ids=str)
def test_nothing_takes_more_memory_than_was_said(request_: BatchRequest) -> None:
    """As far as Python sees it: the kernel's own buffers it does not."""
    cost = cost_of(request_, "numba")
    length_table(request_.spec.l)
    first, size = next(iter(request_.ranges()))
    make_batch(request_, first, size)
    tracemalloc.start()
    try:
        make_batch(request_, first, size)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= cost.batch_bytes + cost.scratch_bytes + 2**20


@pytest.mark.parametrize(
    "spec", [Spec(L=1), Spec(L=20_000), Spec(n=2**24 - 1, l=1e-9), Spec(l=2**20, L=50_000)], ids=str
)
def test_the_numpy_engine_keeps_to_it_as_well(spec: Spec, slowness: float) -> None:
    request = BatchRequest(spec=spec, seed=1, stop=2, batch_size=2)
    cost = cost_of(request, "numpy")
    reference.sample(spec, 1, request.split, 0)
    begun = time.process_time()
    reference.sample(spec, 1, request.split, 0)
    assert time.process_time() - begun <= 1.5 * slowness * cost.cpu_s
    tracemalloc.start()
    try:
        reference.sample(spec, 1, request.split, 0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= cost.scratch_bytes


@pytest.mark.parametrize("mean", [1e-300, 0.1, 1, 2.5, 3, 10, 64, 1000, 12345.6, 2**17, 2**20])
def test_no_element_is_longer_than_the_bound(mean: float) -> None:
    longest = longest_element(mean)
    assert length_table(mean).maximum <= longest <= 2 * length_table(mean).maximum + 16


def test_the_cost_of_a_huge_request_is_found_without_making_it() -> None:
    spec = Spec(L=2**34, n=2**24 - 1, l=2**20)
    request = BatchRequest(spec=spec, seed=0, stop=2**64, batch_size=2**31 - 1)
    begun = time.process_time()
    plain = cost_of(request, "numba")
    told = cost_of(replace(request, provenance=True), "numba")
    assert time.process_time() - begun < 0.01
    assert plain.batch_bytes == 2 * (2**31 - 1) * 2**34
    assert plain.cpu_s > 1e19
    assert told.batch_bytes > 2**69
