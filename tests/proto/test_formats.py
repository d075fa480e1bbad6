"""JSON is what the standard library would say, however large the arrays are."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from metalm_proto import formats
from metalm_proto.batch import Batch, Provenance
from metalm_proto.spec import BatchRequest, Spec
from metalm_service.core.engine import make_batch

BATCHES = [
    make_batch(
        BatchRequest.single(spec=spec, seed=2**64 - 1, first=5, size=size, provenance=provenance), 5, size
    )
    for spec, size, provenance in (
        (Spec(V=4, n=2, l=3, L=12), 1, False),
        (Spec(V=4, n=2, l=3, L=12, language=7), 1, True),
        (Spec(V=2**20, n=3, L=50_000), 1, False),
        (Spec(V=300, n=3, l=5, L=40), 3, True),
        (Spec(L=1), 2, False),
    )
]  # fmt: skip


def listed(provenance: Provenance) -> dict[str, Any]:
    return {
        **{name: getattr(provenance, name).tolist() for name in ("element", "offset", "exposure")},
        "corruption": provenance.corruption.tolist(),
        "languages": [
            [element.tolist() for element in np.split(one.tokens, np.cumsum(one.lengths)[:-1])]
            for one in provenance.languages
        ],
    }


@pytest.mark.parametrize("batch", BATCHES, ids=lambda batch: f"{batch.x.shape}")
def test_json_on_one_line(batch: Batch) -> None:
    fields = {**formats.header(batch), "x": batch.x.tolist(), "y": batch.y.tolist()}
    if batch.provenance is not None:
        fields["provenance"] = listed(batch.provenance)
    assert formats.to_json(batch) == json.dumps(fields, separators=(",", ":"))


@pytest.mark.parametrize("batch", [batch for batch in BATCHES if batch.size == 1])
def test_a_sample_to_be_read(batch: Batch) -> None:
    fields = formats.header(batch)
    first = fields.pop("first")
    head = list(fields)
    fields.update(index=first, x=batch.x[0].tolist(), y=batch.y[0].tolist())
    if batch.provenance is not None:
        fields["provenance"] = {
            name: rows if name == "languages" else rows[0]
            for name, rows in listed(batch.provenance).items()
        }
    text = formats.sample_to_json(batch)
    assert json.loads(text) == fields
    lines = text.splitlines()
    assert len(lines) == len(fields) + 2
    for line in lines[1:-1]:
        name, value = next(iter(json.loads("{" + line.strip().rstrip(",") + "}").items()))
        assert line.rstrip(",") == f"  {json.dumps(name)}: {json.dumps(value)}"
    assert set(head) < set(fields)


@pytest.mark.parametrize("batch", BATCHES, ids=lambda batch: f"{batch.x.shape}")
def test_text_is_a_line_a_sample(batch: Batch) -> None:
    rows = zip(batch.x.tolist(), batch.y.tolist(), strict=True)
    lines = ["\t".join(f"{x},{y}" for x, y in zip(*row, strict=True)) for row in rows]
    assert formats.to_text(batch) == "".join(line + "\n" for line in lines)
