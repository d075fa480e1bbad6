"""What a generator of batches offers and allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from metalm_proto.spec import GENERATORS, Spec


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """A server's bounds: bytes of arrays in one batch, samples in one request, bytes of arrays in
    work or on their way out for all requests together, seconds of a core for one request (0: of a
    server that does not say)."""

    max_message_bytes: int
    max_request_samples: int
    max_inflight_bytes: int
    max_request_cpu_s: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """How far each of these may go on a server, the rest of a spec as it is: the largest value of
    which it gives a sample with its provenance. For l the largest whole one. 0: none."""

    V: int
    n: int
    l: int
    L: int


_LIMITS = [field.name for field in fields(Limits)]
_REACH = [field.name for field in fields(Reach)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """`engine`: "numba" or "numpy"; `limits`: None in process; `spec`: the one asked about;
    `reach`: of that spec, None in process and of a server that does not say."""

    version: str
    engine: str
    limits: Limits | None
    generators: tuple[str, ...] = GENERATORS
    spec: Spec | None = None
    reach: Reach | None = None

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        answer: dict[str, Any] = {
            "generators": list(self.generators),
            "version": self.version,
            "engine": self.engine,
            "limits": None if self.limits is None else asdict(self.limits),
        }
        if self.spec is not None:
            answer["spec"] = self.spec.as_dict()
            answer["ids"] = self.spec.ids()
            answer["dtype"] = self.spec.dtype.name
        if self.reach is not None:
            answer["reach"] = asdict(self.reach)
        return answer

    @classmethod
    def from_dict(cls, answer: Mapping[str, Any], spec: Spec | None) -> Description:
        """The answer to a question about `spec`, from `as_dict`'s form."""
        limits, reach = answer["limits"], answer.get("reach")
        # By name, as another version may tell more, or less.
        known = {name: limits[name] for name in _LIMITS if name in limits} if limits else None
        return cls(
            version=answer["version"],
            engine=answer["engine"],
            limits=None if known is None else Limits(**known),
            generators=tuple(answer["generators"]),
            spec=spec,
            reach=Reach(**{name: reach[name] for name in _REACH}) if reach else None,
        )
