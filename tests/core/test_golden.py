from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from metalm_proto.batch import Provenance, Tokens
from metalm_proto.spec import GENERATOR, BatchRequest, Spec
from metalm_service.core.engine import make_batch

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "golden.json").read_text())
SPEC_NAMES = [field.name for field in fields(Spec)]
CHANGED = (
    f"this is not the stream that {GENERATOR} names. A released stream never changes: "
    "undo the change, or give the new stream a new generator name and golden digests of its own"
)


@pytest.mark.parametrize("golden", GOLDEN["batches"], ids=lambda golden: golden["digest"])
def test_released_batches_never_change(golden: dict[str, Any]) -> None:
    request = request_of(golden)
    batch = make_batch(request, request.start, request.samples)
    assert f"{batch.digest:016x}" == golden["digest"], CHANGED


@pytest.mark.parametrize("golden", GOLDEN["provenance"], ids=lambda golden: golden["digest"])
def test_released_provenance_never_changes(golden: dict[str, Any]) -> None:
    request = request_of(golden, provenance=True)
    batch = make_batch(request, request.start, request.samples)
    assert batch.provenance is not None
    assert f"{digest_of_provenance(batch.provenance):016x}" == golden["digest"], CHANGED


def test_the_golden_digests_belong_to_this_generator() -> None:
    assert GOLDEN["generator"] == GENERATOR, CHANGED


def test_the_golden_digests_cover_every_kind_of_batch() -> None:
    specs = [request_of(golden).spec for golden in GOLDEN["batches"]]
    kinds = {(spec.profile, spec.dtype.str, spec.language is None) for spec in specs}
    assert len(kinds) == 2 * 3 * 2
    assert {golden["split"] for golden in GOLDEN["batches"]} == {"train", "validation", "test"}


def request_of(golden: dict[str, Any], provenance: bool = False) -> BatchRequest:
    return BatchRequest.single(
        spec=Spec(**{name: golden[name] for name in SPEC_NAMES}),
        provenance=provenance,
        **{name: golden[name] for name in ("seed", "split", "first", "size")},
    )


def digest_of_provenance(provenance: Provenance) -> int:
    """XXH3-64 of element, offset, exposure and corruption, then of each language's lengths and
    tokens: little-endian, C order."""
    arrays: list[Tokens] = [
        provenance.element,
        provenance.offset,
        provenance.exposure,
        provenance.corruption,
    ]
    for language in provenance.languages:
        arrays += [language.lengths, language.tokens]
    state = xxhash.xxh3_64()
    for array in arrays:
        state.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
    return state.intdigest()
