"""Batches for people and for files: JSON, MetaGym's text lines, npz."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np

from metalm_proto.batch import Batch, Language, Provenance


def to_json(batch: Batch) -> str:
    """A batch as one JSON object on one line; x, y and provenance are lists of B rows."""
    fields = {
        **header(batch),
        "x": batch.x.tolist(),
        "y": batch.y.tolist(),
    }
    if batch.provenance is not None:
        fields["provenance"] = _provenance(batch.provenance)
    return json.dumps(fields, separators=(",", ":"))


def sample_to_json(batch: Batch) -> str:
    """A batch of one sample as JSON to be read: a field a line, x and y lists of L tokens."""
    fields = {
        **{"index" if name == "first" else name: value for name, value in header(batch).items()},
        "x": batch.x[0].tolist(),
        "y": batch.y[0].tolist(),
    }
    if batch.provenance is not None:
        nested = _provenance(batch.provenance)
        fields["provenance"] = {
            name: rows if name == "languages" else rows[0] for name, rows in nested.items()
        }
    lines = ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items()
    )
    return f"{{\n{lines}\n}}\n"


def to_text(batch: Batch) -> str:
    """MetaGym's format: a line a sample, `x,y` pairs with tabs between, as its
    `generate_to_file` writes them."""
    rows = zip(batch.x.tolist(), batch.y.tolist(), strict=True)
    return "".join(
        "\t".join([f"{x},{y}" for x, y in zip(*row, strict=True)]) + "\n" for row in rows
    )


def to_npz(batch: Batch) -> bytes:
    """An npz with `x` and `y`, [B, L], and `metadata`, JSON that says which samples these are."""
    target = io.BytesIO()
    metadata = json.dumps(header(batch))
    np.savez(target, x=batch.x, y=batch.y, metadata=np.array(metadata))
    return target.getvalue()


def header(batch: Batch) -> dict[str, Any]:
    """What says which samples these are, as plain JSON types."""
    spec = batch.spec
    return {
        "generator": batch.generator,
        "spec": spec.as_dict(),
        "seed": batch.seed,
        "split": str(batch.split),
        "first": batch.first,
        "ids": spec.ids(),
        "digest": f"{batch.digest:016x}",
    }


def _provenance(provenance: Provenance) -> dict[str, Any]:
    return {
        "element": provenance.element.tolist(),
        "offset": provenance.offset.tolist(),
        "exposure": provenance.exposure.tolist(),
        "corruption": provenance.corruption.tolist(),
        "languages": [_language(language) for language in provenance.languages],
    }


def _language(language: Language) -> list[list[int]]:
    return [element.tolist() for element in language.elements()]
