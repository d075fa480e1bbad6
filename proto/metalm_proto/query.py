"""Requests to URL queries and back.

Every parameter has its short name; `vocab_size` and the other long names are
understood too. A name that is not known is an error: a misspelt `sed=7` must not
silently give another stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from metalm_proto.errors import InvalidArgument
from metalm_proto.fields import Field
from metalm_proto.floors import FLOORS_FIELDS, FloorsRequest
from metalm_proto.spec import (
    BATCH_SIZE,
    GENERATOR_FIELD,
    INDEX,
    PROVENANCE,
    REQUEST_FIELDS,
    SEED,
    SPEC_FIELDS,
    SPLIT,
    START,
    STOP,
    STRIDE,
    BatchRequest,
    Spec,
    draw_seed,
)

_STREAM = (SEED, SPLIT, GENERATOR_FIELD, PROVENANCE)
SAMPLE_QUERY = (*SPEC_FIELDS, INDEX, *_STREAM)
FLOORS_QUERY = (*SPEC_FIELDS, *FLOORS_FIELDS)
BATCHES_QUERY = (*SPEC_FIELDS, START, STOP, BATCH_SIZE, STRIDE, *_STREAM)

Pairs = Iterable[tuple[str, str]]


def parse_sample(pairs: Pairs) -> tuple[BatchRequest, bool]:
    """The request for one sample, and whether the query gave the seed.

    Raises InvalidArgument or UnknownGenerator.
    """
    values, seeded = _parse_request(pairs, SAMPLE_QUERY)
    first = values.pop("index", INDEX.default)
    return BatchRequest.single(first=first, **values), seeded


def parse_batches(pairs: Pairs) -> tuple[BatchRequest, bool]:
    """The request for a range of samples, and whether the query gave the seed.

    Raises InvalidArgument or UnknownGenerator.
    """
    values, seeded = _parse_request(pairs, BATCHES_QUERY)
    if "stop" not in values:
        raise InvalidArgument("stop", None, f"given: {STOP.bound}, above start")
    return BatchRequest(**values), seeded


def parse_floors(pairs: Pairs) -> FloorsRequest:
    """The floors that a query asks for. Raises InvalidArgument."""
    texts = _texts(pairs, FLOORS_QUERY)
    spec = Spec(**_values(texts, SPEC_FIELDS))
    return FloorsRequest(spec=spec, **_values(texts, FLOORS_FIELDS))


def parse_spec(pairs: Pairs) -> Spec | None:
    """The spec that a query names, or None for an empty query. Raises InvalidArgument."""
    values = _values(_texts(pairs, SPEC_FIELDS), SPEC_FIELDS)
    return Spec(**values) if values else None


def spec_pairs(spec: Spec | None) -> list[tuple[str, str]]:
    """The query of a spec, every default spelled out; nothing for None."""
    values = {} if spec is None else spec.as_dict()
    return [(name, str(value)) for name, value in values.items() if value is not None]


def batches_pairs(request: BatchRequest) -> list[tuple[str, str]]:
    """The query of `/batches` for a request, in canonical form."""
    names = ["start", "stop", "batch_size"]
    if request.stride != request.batch_size:
        names.append("stride")
    window = [(name, str(getattr(request, name))) for name in names]
    return [*spec_pairs(request.spec), *window, *_stream_pairs(request)]


def _stream_pairs(request: BatchRequest) -> list[tuple[str, str]]:
    pairs = [(name, str(getattr(request, name))) for name in ("seed", "split", "generator")]
    return [*pairs, ("provenance", "true")] if request.provenance else pairs


def _parse_request(pairs: Pairs, known: Sequence[Field]) -> tuple[dict[str, Any], bool]:
    texts = _texts(pairs, known)
    spec = Spec(**_values(texts, SPEC_FIELDS))
    values = _values(texts, (INDEX, *REQUEST_FIELDS))
    seeded = "seed" in values
    return {"seed": None if seeded else draw_seed(), **values, "spec": spec}, seeded


def _texts(pairs: Pairs, known: Sequence[Field]) -> dict[str, str]:
    """The texts by short name."""
    by_name = {name: field for field in known for name in (field.name, field.long_name)}
    texts: dict[str, str] = {}
    for name, text in pairs:
        field = by_name.get(name)
        if field is None:
            names = ", ".join(field.name for field in known)
            raise InvalidArgument("parameter", name, f"one of {names}")
        if field.name in texts:
            raise InvalidArgument(field.label, text, "given once")
        texts[field.name] = text
    return texts


def _values(texts: dict[str, str], fields: Sequence[Field]) -> dict[str, Any]:
    """The values of those fields that are given. Of several wrong ones the first field's is
    refused, wherever it stands in the query: so every door names the same one."""
    return {field.name: field.parse(texts[field.name]) for field in fields if field.name in texts}
