"""What the OpenAPI page says; the parameters come from the field descriptions."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Protocol

from fastapi import Security
from fastapi.security import HTTPBearer

from metalm_proto import errors, query
from metalm_proto.fields import Field
from metalm_proto.spec import SPEC_FIELDS, Split

DESCRIPTION = """
Seeded batches of MetaLM(V, n, l, e, L), the data of research in lifelong in-context learning.
Every answer is a pure function of its query: give a `seed`, and the same query gives the same
bytes from any replica, now and later.

Try `/sample?V=64&n=10`, `/sample?V=4&n=2&l=3&L=24&seed=0&format=text`,
`/batches?V=64&n=10&seed=7&start=0&stop=64&batch_size=32&format=ndjson`.
"""

_EXAMPLE = {
    "generator": "metalm-1",
    "spec": {
        "V": 4,
        "n": 2,
        "l": 3.0,
        "e": 0.2,
        "L": 12,
        "mask_ratio": 0.3,
        "profile": "metalm",
    },
    "seed": 0,
    "split": "train",
    "ids": {"mask": 0, "separator": 5, "vocabulary": 6},
    "digest": "3a0e6a74bc2cc09d",
    "index": 0,
    "x": [2, 2, 1, 5, 3, 2, 0, 2, 3, 3, 3, 5],
    "y": [2, 1, 5, 3, 2, 4, 1, 3, 3, 3, 5, 2],
}
_TRY = {"V": 4, "n": 2, "l": 3, "e": 0.2, "L": 12, "seed": 0, "start": 0, "stop": 4}


def _object(**properties: Any) -> dict[str, Any]:
    """The schema of an object with at least these members."""
    return {"type": "object", "required": list(properties), "properties": properties}


_COUNT = {"type": "integer", "minimum": 0}
_TEXT = {"type": "string"}
_TOKENS = {"type": "array", "items": _COUNT, "minItems": 1}
_IDS = _object(mask=_COUNT, separator=_COUNT, vocabulary=_COUNT)
_SAMPLE = _object(
    generator=_TEXT,
    spec={"type": "object"},
    seed=_COUNT,
    split={"enum": [str(split) for split in Split]},
    ids=_IDS,
    digest={"type": "string", "pattern": "^[0-9a-f]{16}$"},
    index=_COUNT,
    x=_TOKENS,
    y=_TOKENS,
)
_DESCRIPTION = _object(
    generators={"type": "array", "items": _TEXT},
    version=_TEXT,
    engine={"enum": ["numba", "numpy"]},
    limits={"type": "object", "additionalProperties": _COUNT},
)
# Of a spec, where one is asked about.
_DESCRIPTION["properties"]["ids"] = _IDS
_DESCRIPTION["properties"]["reach"] = _object(V=_COUNT, n=_COUNT, l=_COUNT, L=_COUNT)
_VERSION = ("version", "generators", "engine")
_PROBLEM = _object(
    title=_TEXT, status={"type": "integer", "minimum": 400}, detail=_TEXT, reason=_TEXT
)


class _Named(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def media_type(self) -> str: ...


def sample(choices: Sequence[_Named]) -> dict[str, Any]:
    return _operation(
        "One sample",
        "One sample, readable. Without a seed one is drawn and told in the answer.",
        query.SAMPLE_QUERY,
        choices,
        _EXAMPLE,
    )


def batches(choices: Sequence[_Named]) -> dict[str, Any]:
    return _operation(
        "A range of samples as a stream of batches",
        "The samples [start, stop) in order: `metalm.v1.Batch` messages, each after its length "
        "as a varint, or a JSON object a line.",
        query.BATCHES_QUERY,
        choices,
        None,
    )


def floors() -> dict[str, Any]:
    schema = _object(
        spec={"type": "object"},
        seed=_COUNT,
        first=_COUNT,
        samples=_COUNT,
        unit=_TEXT,
        predictors={"type": "object"},
    )
    return {
        "summary": "How well a model can do at best",
        "description": "Mean losses, in nats per predicted token, of the best possible predictors "
        "and of simple ones on some samples of a stream: overall, along the sequence, by exposure, "
        "by lag, by offset. `genie` and `greedy` enclose the Bayes learner on average; "
        "`exact_samples` says on how many samples they are the Bayes learner itself.",
        "responses": {200: _json("The floors", schema), **_error_responses(400, 503)},
        "openapi_extra": {"parameters": [*map(_parameter, query.FLOORS_QUERY)]},
    }


def describe() -> dict[str, Any]:
    return {
        "summary": "Generators, limits, version; with a spec, its token ids and its reach",
        "description": "The reach of a spec: how far V, n, l and L may go each on this server, the "
        "others as asked; the largest value of which it gives one sample with its provenance.",
        "openapi_extra": {"parameters": [_parameter(field) for field in SPEC_FIELDS]},
        "responses": {200: _json("What is offered", _DESCRIPTION), **_error_responses(400)},
    }


def version() -> dict[str, Any]:
    schema = _object(**{name: _DESCRIPTION["properties"][name] for name in _VERSION})
    return {"summary": "Versions", "responses": {200: _json("The versions", schema)}}


def probe(summary: str, *statuses: int) -> dict[str, Any]:
    """`statuses`: those that it answers beside 200."""
    schema = _object(status={"type": "string"})
    return {
        "summary": summary,
        "responses": {status: _json("The state", schema) for status in (200, *statuses)},
    }


def guarded(operation: dict[str, Any]) -> dict[str, Any]:
    """An operation that needs a token; it asks for it itself, in the words of both doors."""
    return {
        **operation,
        "responses": operation["responses"] | _error_responses(401),
        "dependencies": [Security(HTTPBearer(auto_error=False))],
    }


def _operation(
    summary: str,
    description: str,
    fields: Sequence[Field],
    choices: Sequence[_Named],
    example: object,
) -> dict[str, Any]:
    form = {
        "name": "format",
        "in": "query",
        "description": "form of the answer; otherwise the Accept header tells",
        "schema": {"enum": [choice.name for choice in choices]},
    }
    content: dict[str, Any] = {choice.media_type.partition(";")[0]: {} for choice in choices}
    if example is not None:
        content["application/json"] = {"example": example, "schema": _SAMPLE}
    return {
        "summary": summary,
        "description": description,
        "responses": {
            200: {"description": "The tokens", "content": content},
            **_error_responses(400, 404, 503),
        },
        "openapi_extra": {"parameters": [*map(_parameter, fields), form]},
    }


def _parameter(field: Field) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": _type(field)}
    if issubclass(field.kind, StrEnum):
        schema["enum"] = [str(member) for member in field.kind]
    if field.default is not None:
        schema["default"] = field.default
    if field.lower is not None:
        schema["exclusiveMinimum" if field.open_lower else "minimum"] = field.lower
    if field.upper is not None:
        schema["exclusiveMaximum" if field.open_upper else "maximum"] = field.upper
    parameter: dict[str, Any] = {
        "name": field.name,
        "in": "query",
        "description": field.doc,
        "schema": schema,
    }
    if field.name == "stop":
        parameter["required"] = True
    if field.name in _TRY:
        parameter["example"] = _TRY[field.name]
    return parameter


def _type(field: Field) -> str:
    return {int: "integer", float: "number", bool: "boolean"}.get(field.kind, "string")


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """A response for each status in the error table that a request can meet."""
    by_status: dict[int, list[str]] = {}
    for error in errors.ERRORS:
        if error not in errors.CLIENTS_OWN:
            by_status.setdefault(error.http_status, []).append(error.reason)
    return {
        status: {
            "description": "A problem (RFC 9457), its reason one of " + ", ".join(reasons),
            "content": {"application/problem+json": {"schema": _PROBLEM}},
        }
        for status, reasons in by_status.items()
        if status in statuses
    }
