"""The published curves of MetaLM, read off their plot."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from metalm_proto.spec import Profile, Spec


@dataclass(frozen=True, slots=True)
class PublishedCurve:
    """`nll_nats`: the mean loss over each 128 tokens, `t_end` where each of them ends."""

    name: str
    model: str
    spec: Spec
    t_end: tuple[int, ...]
    nll_nats: tuple[float, ...]


def published_curves(spec: Spec) -> tuple[PublishedCurve, ...]:
    """Those that were measured in the setting of a spec. They fit only the distribution of
    MetaGym's code as shipped, so there are none for the profile metalm."""
    return tuple(curve for curve in _curves() if curve.spec == spec)


@lru_cache(maxsize=1)
def _curves() -> tuple[PublishedCurve, ...]:
    told = json.loads((files("metalm_proto") / "published_curves.json").read_text())
    return tuple(
        PublishedCurve(
            name=name,
            model=curve["model"].partition(" (")[0],
            spec=Spec(
                **{field: curve["spec"][field] for field in ("V", "n", "l", "L")},
                e=curve["spec"]["e_readme"],
                profile=Profile.METAGYM,
            ),
            t_end=tuple(told["t_end"]),
            nll_nats=tuple(curve["nll_nats"]),
        )
        for name, curve in told["curves"].items()
    )
