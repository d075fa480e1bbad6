from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metalm_proto.batch import Pair, digest_of
from metalm_proto.spec import BatchRequest, Spec, Split
from metalm_service.core import reference
from metalm_service.core.engine import Fill, make_batch

BATCHES = json.loads((Path(__file__).parents[1] / "data" / "vectors.json").read_text())["batches"]
SPEC_NAMES = [field.name for field in fields(Spec)]


@pytest.fixture(params=["numpy", "numba"])
def fill(request: pytest.FixtureRequest) -> Fill:
    if request.param == "numpy":
        return fill_with_reference
    pytest.importorskip("numba")
    from metalm_service.core import kernel

    return kernel.generate


@pytest.mark.parametrize("known", BATCHES, ids=lambda known: known["digest"])
def test_each_engine_gives_the_known_batches(known: dict[str, Any], fill: Fill) -> None:
    spec = spec_of(known)
    assert spec.dtype.str == known["dtype"]
    out = np.empty((2, known["size"], spec.L), spec.dtype)
    fill(spec, known["seed"], Split(known["split"]), known["first"], out)
    x, y = out
    assert x[0, : len(known["x_head"])].tolist() == known["x_head"]
    assert y[0, : len(known["y_head"])].tolist() == known["y_head"]
    assert f"{digest_of(x, y):016x}" == known["digest"]
    assert x.tolist() == known.get("x", x.tolist())
    assert y.tolist() == known.get("y", y.tolist())


@pytest.mark.parametrize("known", BATCHES, ids=lambda known: known["digest"])
def test_a_made_batch_says_which_samples_it_holds(known: dict[str, Any]) -> None:
    spec, first, size = spec_of(known), known["first"], known["size"]
    request = BatchRequest.single(
        spec=spec, first=first, size=size, seed=known["seed"], split=Split(known["split"])
    )
    batch = make_batch(request, first, size)
    assert (batch.spec, batch.seed, batch.first) == (spec, known["seed"], first)
    assert (str(batch.split), batch.generator) == (known["split"], "metalm-1")
    assert batch.x.shape == batch.y.shape == (size, spec.L)
    assert f"{batch.digest:016x}" == known["digest"]
    assert batch.provenance is None
    batch.verify()


def fill_with_reference(spec: Spec, seed: int, split: Split, first: int, out: Pair) -> None:
    for row, (x, y) in enumerate(zip(*out, strict=True)):
        x[:], y[:] = reference.sample(spec, seed, split, first + row)


def spec_of(known: dict[str, Any]) -> Spec:
    return Spec(**{name: known[name] for name in SPEC_NAMES})
