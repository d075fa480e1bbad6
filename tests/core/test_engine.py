from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from metalm_proto.batch import digest_of
from metalm_proto.spec import BatchRequest, Spec
from metalm_service.core import cost, engine
from metalm_service.core.engine import cost_of, engine_name, make_batch

SPEC = Spec(V=300, n=20, l=6, L=100)


def test_without_numba_the_batches_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    request = BatchRequest.single(spec=SPEC, seed=1, size=4)
    by_default = make_batch(request, 0, 4)
    monkeypatch.setattr(engine, "find_spec", lambda _: None)
    for cached in (engine.engine_name, engine._fill):
        cached.cache_clear()
    try:
        assert engine_name() == "numpy"
        engine.warm()
        assert make_batch(request, 0, 4).digest == by_default.digest
    finally:
        for cached in (engine.engine_name, engine._fill):
            cached.cache_clear()


def test_a_batch_is_abandoned_between_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cost.TOKENS_AT_A_TIME, engine_name(), 2 * SPEC.L)
    looks = 0

    def proceed() -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        make_batch(BatchRequest.single(spec=SPEC, seed=1, size=100), 0, 100, proceed)
    assert looks == 3


def test_a_batch_can_be_written_to_and_is_in_one_piece() -> None:
    batch = make_batch(BatchRequest.single(spec=SPEC, seed=1, size=3), 0, 3)
    for array in (batch.x, batch.y):
        assert array.flags.writeable
        assert array.flags.c_contiguous
        assert array.shape == (3, SPEC.L)


@pytest.mark.parametrize("language", [None, 3])
@pytest.mark.parametrize("provenance", [False, True])
def test_the_bytes_of_a_batch_are_known_before_it_is_made(
    provenance: bool, language: int | None
) -> None:
    spec = replace(SPEC, language=language)
    request = BatchRequest(spec=spec, seed=1, stop=7, batch_size=4, provenance=provenance)
    batch = make_batch(request, 0, 4)
    arrays = [batch.x, batch.y]
    if batch.provenance is not None:
        found = batch.provenance
        arrays += [found.element, found.offset, found.exposure, found.corruption]
        arrays += [part for one in found.languages for part in (one.lengths, one.tokens)]
    total = sum(array.nbytes for array in arrays)
    if provenance:
        assert total <= cost_of(request).batch_bytes < 4 * total
    else:
        assert total == cost_of(request).batch_bytes


def test_a_digest_is_that_of_the_bytes_of_x_then_y() -> None:
    x, y = np.array([[1, 2]], "<u2"), np.array([[3, 4]], "<u2")
    little = digest_of(x, y)
    assert little == digest_of(x.astype(">u2"), y.astype(">u2"))
    assert little != digest_of(y, x)
    assert little == digest_of(np.array([[1, 2, 3]], "<u2"), np.array([[4]], "<u2"))
    assert little == digest_of(np.array([[1, 0, 2, 0]], "|u1"), y)
