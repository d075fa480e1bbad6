"""The samples that a model is judged by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from metalm_proto.batch import Tokens
from metalm_proto.errors import InvalidArgument
from metalm_proto.fields import U64
from metalm_proto.spec import GENERATOR, SEED, SPLIT, Spec, Split

_TOKENS_AT_A_TIME = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSet:
    """Samples of one stream: those of `ranges`, each (start, stop), ascending and apart.

    Raises InvalidArgument for a value out of bounds.
    """

    spec: Spec
    seed: int
    split: Split = Split.TEST
    ranges: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", SEED.check(self.seed))
        object.__setattr__(self, "split", SPLIT.check(self.split))
        behind = 0
        for start, stop in self.ranges:
            if not behind <= start < stop <= U64:
                raise InvalidArgument("ranges", self.ranges, "ascending, apart and not empty")
            behind = stop

    @property
    def samples(self) -> int:
        return sum(stop - start for start, stop in self.ranges)

    def batches(self) -> Iterator[tuple[int, Tokens]]:
        """The first index of a batch and its tokens, x and y: [2, B, L] of the spec's dtype. This
        process generates them."""
        from metalm_service.core import engine

        rows = max(1, _TOKENS_AT_A_TIME // self.spec.L)
        for start, stop in self.ranges:
            for first in range(start, stop, rows):
                tokens = np.empty((2, min(rows, stop - first), self.spec.L), self.spec.dtype)
                engine.generate(self.spec, self.seed, self.split, first, tokens)
                yield first, tokens

    def sha256(self) -> str:
        """SHA-256 of the samples in the order of their index, of each the bytes of x followed by
        those of y, in the spec's dtype, little-endian. No batch size enters."""
        state = hashlib.sha256()
        for _, tokens in self.batches():
            state.update(np.ascontiguousarray(tokens.swapaxes(0, 1)).data.cast("B"))
        return state.hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {
            "generator": GENERATOR,
            "spec": self.spec.as_dict(),
            "seed": self.seed,
            "split": str(self.split),
            "ranges": [list(pair) for pair in self.ranges],
            "samples": self.samples,
        }
