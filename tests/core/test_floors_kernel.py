"""The floors' kernels against `floors/reference.py`, and at the ends of what a spec may be."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from metalm_proto.errors import InvalidArgument
from metalm_proto.spec import BatchRequest, Profile, Spec, Split
from metalm_service.core.engine import make_batch
from metalm_service.core.floors import LADDER, NEVER, losses, reference, targets

NAMES = (*LADDER, "bayes-1", "bayes-9")
COMPARED = [name for name in LADDER if "bayes-" not in name] + ["bayes-1", "bayes-9", "bayes-40"]
LARGEST = 2**31 - 3


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    profile = draw(st.sampled_from(Profile))
    fewest = 2 if profile is Profile.METAGYM else 1
    return Spec(
        V=draw(st.sampled_from([2, 3, 5, 64])),
        n=draw(st.sampled_from([fewest, 3, 30, 2**20])),
        l=draw(st.sampled_from([1e-9, 1.0, 5.0, 20.0])),
        e=draw(st.sampled_from([0.0, 1e-300, 0.1, 0.4, 0.9])),
        L=draw(st.integers(1, 100)),
        mask_ratio=draw(st.sampled_from([0.0, 0.3, 1.0])),
        profile=profile,
        language=draw(st.none() | st.just(7)),
    )


@settings(max_examples=40)
@given(
    spec=specs(),
    seed=st.integers(0, 2**64 - 1),
    name=st.sampled_from([name for name in COMPARED if name != "known"]),
)
def test_kernels_agree_with_the_reference(spec: Spec, seed: int, name: str) -> None:
    assert_agree(shorter(spec, name, 50), seed, name)


@settings(max_examples=20)
@given(spec=specs().map(lambda spec: replace(spec, n=min(spec.n, 40))), seed=st.integers(0, 99))
def test_the_kernel_of_the_known_language_agrees_with_the_reference(spec: Spec, seed: int) -> None:
    assert_agree(spec, seed, "known")


@pytest.mark.parametrize("name", COMPARED)
@pytest.mark.parametrize(
    "spec",
    [
        Spec(V=4, n=20, l=3, e=0.3, L=400),  # greedy errs here
        Spec(V=4, n=4, l=6, e=0.2, L=400, profile=Profile.METAGYM),
        Spec(V=2, n=2, l=3, e=0.2, L=100, profile=Profile.METAGYM),  # one symbol, one element
        Spec(V=2, n=3, l=3, e=0.8, mask_ratio=0, L=200),  # r < 1
        Spec(V=2, n=3, l=3, e=0.5, mask_ratio=0, L=200),  # r = 1: nothing is heard
        Spec(V=5, n=3, l=6, e=0.3, mask_ratio=1, L=200),  # r = inf
    ],
    ids=str,
)
def test_kernels_agree_with_the_reference_where_it_matters(spec: Spec, name: str) -> None:
    assert_agree(shorter(spec, name, 120), 5, name)


def shorter(spec: Spec, name: str, L: int) -> Spec:
    """The numpy version of a window computes all anew at every token."""
    return replace(spec, L=min(L, spec.L)) if "bayes-" in name else spec


def assert_agree(spec: Spec, seed: int, name: str) -> None:
    (found,) = losses(spec, seed, Split.TEST, 3, 1, [name])[name]
    p = reference.distributions(spec, seed, Split.TEST, 3, name)
    expected = reference.losses(spec, seed, Split.TEST, 3, name)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    assert (p[:, spec.mask_id] == 0).all()


@pytest.mark.parametrize(
    "spec",
    [
        Spec(L=1),
        Spec(V=LARGEST, n=3, l=8, L=600),
        Spec(V=LARGEST, n=2, l=8, e=1 - 2**-40, L=600, mask_ratio=0, profile=Profile.METAGYM),
        Spec(V=300, n=1000, l=4, e=0.2, L=8000),
        Spec(n=2, l=1000, L=6000),
        Spec(n=2, l=2.0**20, L=500),
        Spec(n=2, l=5e-324, L=500),
        Spec(V=2, n=50, l=30, e=0.999, L=3000),
        Spec(V=3, n=200, l=1, e=0.5, L=6000),
        Spec(e=5e-324, L=500),
    ],
    ids=str,
)
def test_every_loss_is_finite(spec: Spec) -> None:
    for name, loss in losses(spec, 1, Split.TRAIN, 2**64 - 1, 1, NAMES).items():
        assert loss.shape == (1, spec.L)
        assert loss.dtype == np.float32
        assert np.isfinite(loss).all(), name
        assert (loss >= 0).all(), name


def test_a_sample_is_measured_alone() -> None:
    """Its losses do not depend on which samples are measured with it, nor on the other names."""
    spec = Spec(V=8, n=6, l=6, e=0.2, L=300)
    together = losses(spec, 9, Split.TEST, 10, 5, NAMES)
    for name in NAMES:
        np.testing.assert_array_equal(
            together[name][3:4], losses(spec, 9, Split.TEST, 13, 1, [name])[name]
        )


def test_losses_of_a_prefix_are_a_prefix_of_the_losses() -> None:
    """No predictor looks ahead."""
    spec = Spec(V=8, n=6, l=6, e=0.2, L=300)
    long, short = (losses(replace(spec, L=L), 9, Split.TEST, 0, 3, NAMES) for L in (300, 170))
    for name in NAMES:
        np.testing.assert_array_equal(long[name][:, :170], short[name])


def test_a_window_of_all_is_the_genie() -> None:
    spec = Spec(V=16, n=20, l=8, e=0.2, L=2000)
    found = losses(spec, 1, Split.TEST, 0, 4, ["genie", "bayes-2000", "bayes-999999999999"])
    np.testing.assert_allclose(found["bayes-2000"], found["genie"], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(found["bayes-2000"], found["bayes-999999999999"])


def test_threads_do_not_disturb_each_other() -> None:
    specs = [Spec(V=8, n=6, l=6, e=0.2, L=1000 + 100 * i) for i in range(4)]
    alone = [losses(spec, 1, Split.TEST, 0, 4, NAMES) for spec in specs]
    with ThreadPoolExecutor(4) as threads:
        again = list(threads.map(lambda spec: losses(spec, 1, Split.TEST, 0, 4, NAMES), specs * 4))
    for i, found in enumerate(again):
        for name in NAMES:
            np.testing.assert_array_equal(found[name], alone[i % 4][name])


def test_work_ends_when_it_may_not_proceed() -> None:
    class GoneError(Exception):
        pass

    asked = 0

    def proceed() -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise GoneError

    with pytest.raises(GoneError):
        losses(Spec(L=64), 1, Split.TEST, 0, 10**6, ["genie"], proceed)
    assert asked == 3


def test_other_threads_run_while_a_kernel_does() -> None:
    """It holds no lock: a thread counts on while one sample takes long."""
    spec = Spec(V=4, n=2000, l=3, e=0.5, L=2**15)
    losses(replace(spec, L=64), 1, Split.TEST, 0, 1, ["genie"])
    done, counted = threading.Event(), 0

    def work() -> None:
        losses(spec, 1, Split.TEST, 0, 1, ["genie"])
        done.set()

    worker = threading.Thread(target=work)
    worker.start()
    while not done.is_set():
        counted += 1
        done.wait(1e-4)
    worker.join()
    assert counted > 10


@pytest.mark.parametrize(
    "name", ["", "bayes", "bayes-0", "bayes--1", "bayes-1e3", "Genie", "bayes-٣"]
)
def test_a_name_that_is_no_predictor_is_refused(name: str) -> None:
    with pytest.raises(
        InvalidArgument, match=r"predictor is .*; it must be bayes-W with W >= 1, or"
    ):
        losses(Spec(L=4), 1, Split.TEST, 0, 1, ["genie", name])


@pytest.mark.parametrize(
    ("seed", "first", "count", "field"),
    [
        (-1, 0, 1, "seed"),
        (2**64, 0, 1, "seed"),
        (1, -1, 1, "first"),
        (1, 0, 0, "size"),
        (1, 2**64 - 1, 2, "size"),
    ],
)
def test_samples_that_there_are_not_are_refused(
    seed: int, first: int, count: int, field: str
) -> None:
    with pytest.raises(InvalidArgument) as told:
        losses(Spec(L=4), seed, Split.TEST, first, count, ["genie"])
    assert told.value.field == field
    with pytest.raises(InvalidArgument) as told:
        targets(Spec(L=4), seed, Split.TEST, first, count)
    assert told.value.field == field


def test_without_numba_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metalm_service.core.floors.curves.find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install '\.\[core\]'"):
        losses(Spec(L=4), 1, Split.TEST, 0, 1, ["genie"])


@settings(max_examples=40)
@given(spec=specs(), seed=st.integers(0, 2**64 - 1), first=st.integers(0, 2**64 - 3))
def test_targets_are_the_provenance_of_the_next_token(spec: Spec, seed: int, first: int) -> None:
    spec = replace(spec, n=min(spec.n, 300))
    found = targets(spec, seed, Split.TRAIN, first, 2)
    request = BatchRequest(
        spec=replace(spec, L=spec.L + 1),
        seed=seed,
        start=first,
        stop=first + 2,
        batch_size=2,
        provenance=True,
    )
    told = make_batch(request, first, 2).provenance
    assert told is not None
    for name in ("element", "offset", "exposure"):
        array = getattr(found, name)
        assert array.dtype == np.int32
        np.testing.assert_array_equal(array, getattr(told, name)[:, 1:], name)
    # The lag: look for the last time that the same was spoken.
    for row in range(2):
        last: dict[tuple[int, int], int] = {}
        for position in range(spec.L + 1):
            place = int(told.element[row, position]), int(told.offset[row, position])
            if position:
                lag = position - last[place] if place in last else NEVER
                assert found.lag[row, position - 1] == lag
            last[place] = position


def test_uniform_and_content_free_know_nothing_of_the_tokens() -> None:
    spec = Spec(V=9, n=4, l=5, e=0.1, L=500, profile=Profile.METAGYM)
    found = losses(spec, 1, Split.TEST, 0, 2, ["uniform", "content-free"])
    np.testing.assert_allclose(found["uniform"], math.log(9), rtol=1e-6)
    offset = targets(spec, 1, Split.TEST, 0, 2).offset
    # Elements have three tokens at least.
    np.testing.assert_allclose(found["content-free"][offset < 3], math.log(8), rtol=1e-6)
