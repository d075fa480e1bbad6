"""Evaluation sets with names: what is compared across papers must be the same to the byte."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from metalm.eval.evaluation_set import EvaluationSet
from metalm_proto.errors import InvalidArgument
from metalm_proto.spec import Profile, Spec


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """`sha256`: that of `evaluation_set.sha256()`. A preset never changes: another set is another
    name."""

    name: str
    about: str
    evaluation_set: EvaluationSet
    sha256: str

    def verify(self) -> None:
        """Generates the set anew. Raises InvalidArgument if it has other bytes than it must."""
        found = self.evaluation_set.sha256()
        if found != self.sha256:
            raise InvalidArgument(f"sha256 of {self.name}", found, self.sha256)

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {
            "name": self.name,
            "about": self.about,
            **self.evaluation_set.as_dict(),
            "sha256": self.sha256,
        }


def preset(name: str) -> Preset:
    """Raises InvalidArgument for a name that there is not."""
    if name not in PRESETS:
        raise InvalidArgument("preset", name, f"one of {', '.join(PRESETS)}")
    return PRESETS[name]


def preset_of(evaluation_set: EvaluationSet) -> Preset | None:
    """The preset with these samples, if there is one."""
    found = (one for one in PRESETS.values() if one.evaluation_set == evaluation_set)
    return next(found, None)


def _preset(name: str, samples: int, sha256: str, about: str, spec: Spec) -> Preset:
    chosen = EvaluationSet(spec=spec, seed=0, ranges=((0, samples),))
    return Preset(name=name, about=about, evaluation_set=chosen, sha256=sha256)


def _published(n: int, l: float, profile: Profile) -> Spec:
    return Spec(V=64, n=n, l=l, e=0.10, L=4096, profile=profile)


_METAGYM = "a published setting, drawn as MetaGym's code draws it; for its published curves"
_METALM = "the same setting as MetaLM is defined"
_TIER = "more to learn, and as many tokens as it takes"

PRESETS = {
    one.name: one
    for one in (
        _preset(
            "5x32-metagym",
            256,
            "c9c870a6beae75203a7f24c621ebf0924d39b4194b449ff4b4d5c4031685e72d",
            _METAGYM,
            _published(5, 32, Profile.METAGYM),
        ),
        _preset(
            "10x32-metagym",
            256,
            "b41c00cbaee26995856d27f055594fd7d5db2f0354684ad5d5656ccb8515d093",
            _METAGYM,
            _published(10, 32, Profile.METAGYM),
        ),
        _preset(
            "10x64-metagym",
            256,
            "6581aa5d19ff76a318e8ccd4aa781816881f8a7b9853ea0dcfbc3c65e61349d9",
            _METAGYM,
            _published(10, 64, Profile.METAGYM),
        ),
        _preset(
            "5x32",
            256,
            "005cc367ed774e4e3870340f0585f878a4aa8b7643c651546481a085345dc35f",
            _METALM,
            _published(5, 32, Profile.METALM),
        ),
        _preset(
            "10x32",
            256,
            "3db1aae9ae3120c74c0ab48e6341a0e5e2e6ba4bab0cbebde8cf22a8edad6715",
            _METALM,
            _published(10, 32, Profile.METALM),
        ),
        _preset(
            "10x64",
            256,
            "35bf16e5b7f9308500aefa50c81ab4f008e61bde6f15b3048216e62d51f0df73",
            _METALM,
            _published(10, 64, Profile.METALM),
        ),
        _preset(
            "50x64",
            64,
            "21ab9749af8a1dcbe31e6a42136f1cc5963af1eb1b4a0e02ea220a73a9be224d",
            _TIER,
            Spec(V=64, n=50, l=64, e=0.10, L=20_000),
        ),
        _preset(
            "200x64",
            32,
            "2e9dbc4873b88e742019b354d366f312169ee9b4a4beb6aa8deeeda76169a307",
            _TIER,
            Spec(V=256, n=200, l=64, e=0.10, L=78_000),
        ),
        _preset(
            "1000x64",
            16,
            "bb6b3a7e2bd4086c20b0aef8670e3050f9b60168992a4cd3c388ad07a2d3017d",
            _TIER,
            Spec(V=1024, n=1000, l=64, e=0.10, L=390_000),
        ),
    )
}
