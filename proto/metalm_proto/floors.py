"""Which floors are wanted: validated once, whoever computes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from metalm_proto.errors import InvalidArgument
from metalm_proto.fields import U64, Field
from metalm_proto.spec import FIRST, SEED, SIZE, SPLIT, Spec, Split

SAMPLES = replace(SIZE, name="samples", default=64, doc="samples to take the means of")
STREAM_FIELDS = (
    replace(SEED, default=0, doc="names the stream"),
    replace(SPLIT, default=Split.TEST),
    FIRST,
    SAMPLES,
)
"""Which samples, for whoever may leave all of it out."""
STEPS = Field(
    name="steps", kind=bool, default=False, doc="adds the curves by position, L numbers each"
)
FLOORS_FIELDS = (*STREAM_FIELDS, STEPS)


@dataclass(frozen=True, kw_only=True, slots=True)
class FloorsRequest:
    """The floors of the samples [first, first + samples) of a stream; with `steps` the curves by
    position, too.

    Raises InvalidArgument for a value out of bounds, and names the bound.
    """

    spec: Spec
    seed: int = 0
    split: Split = Split.TEST
    first: int = FIRST.default
    samples: int = SAMPLES.default
    steps: bool = False

    def __post_init__(self) -> None:
        for field in FLOORS_FIELDS:
            object.__setattr__(self, field.name, field.check(getattr(self, field.name)))
        if self.first + self.samples > U64:
            bound = f"an integer with 1 <= samples <= {U64 - self.first}, as first is {self.first}"
            raise InvalidArgument(SAMPLES.label, self.samples, bound)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From what `as_dict` gave. Raises InvalidArgument."""
        return cls(**{**values, "spec": Spec(**values["spec"])})

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**values, "spec": self.spec.as_dict(), "split": str(self.split)}
