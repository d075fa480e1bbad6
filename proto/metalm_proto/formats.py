"""Batches for people and for files: JSON, MetaGym's text lines, npz."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from metalm_proto.batch import Batch, Provenance, Tokens

_AT_A_TIME = 2**14
"""Numbers that become text in one go, some milliseconds: json's own encoder would keep every other
thread waiting until it has done all of them."""


def to_json(batch: Batch) -> str:
    """A batch as one JSON object on one line; x, y and provenance are lists of B rows."""
    fields = {**header(batch), "x": batch.x, "y": batch.y}
    if batch.provenance is not None:
        fields["provenance"] = _provenance(batch.provenance)
    return _json(fields, ",", ":")


def sample_to_json(batch: Batch) -> str:
    """A batch of one sample as JSON to be read: a field a line, x and y lists of L tokens."""
    fields = {
        **{"index" if name == "first" else name: value for name, value in header(batch).items()},
        "x": batch.x[0],
        "y": batch.y[0],
    }
    if batch.provenance is not None:
        nested = _provenance(batch.provenance)
        fields["provenance"] = {
            name: rows if name == "languages" else rows[0] for name, rows in nested.items()
        }
    lines = ",\n".join(f"  {json.dumps(name)}: {_json(value)}" for name, value in fields.items())
    return f"{{\n{lines}\n}}\n"


def to_text(batch: Batch) -> str:
    """MetaGym's format: a line a sample, `x,y` pairs with tabs between, as its
    `generate_to_file` writes them."""
    return "".join(_pairs(x, y) + "\n" for x, y in zip(batch.x, batch.y, strict=True))


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
        "element": provenance.element,
        "offset": provenance.offset,
        "exposure": provenance.exposure,
        "corruption": provenance.corruption,
        "languages": [language.elements() for language in provenance.languages],
    }


def _pairs(x: Tokens, y: Tokens) -> str:
    pieces = (zip(x[piece].tolist(), y[piece].tolist(), strict=True) for piece in _pieces(len(x)))
    return "\t".join("\t".join([f"{x},{y}" for x, y in piece]) for piece in pieces)


def _pieces(count: int) -> Iterator[slice]:
    for first in range(0, count, _AT_A_TIME):
        yield slice(first, first + _AT_A_TIME)


def _json(value: Any, comma: str = ", ", colon: str = ": ") -> str:
    """What json.dumps says of the same in lists; arrays of integers are written piece by piece."""
    if isinstance(value, dict):
        members = (
            f"{json.dumps(key)}{colon}{_json(each, comma, colon)}" for key, each in value.items()
        )
        return f"{{{comma.join(members)}}}"
    if isinstance(value, np.ndarray) and value.ndim == 1:
        pieces = (comma.join(map(str, value[piece].tolist())) for piece in _pieces(len(value)))
        return f"[{comma.join(pieces)}]"
    if isinstance(value, list | tuple | np.ndarray):
        return f"[{comma.join(_json(each, comma, colon) for each in value)}]"
    return json.dumps(value)
