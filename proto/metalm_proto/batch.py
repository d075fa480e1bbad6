"""A batch in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from metalm_proto.errors import CorruptBatch
from metalm_proto.spec import GENERATOR, Spec, Split

Tokens = NDArray[Any]
Pair = Tokens | tuple[Tokens, Tokens]
"""x and y of samples, each [B, L] of spec.dtype: one array [2, B, L], or two."""

KEPT, REPLACED, MASKED = 0, 1, 2
"""Values of `Provenance.corruption`."""


@dataclass(frozen=True, slots=True, eq=False)
class Language:
    """The elements of a language: `lengths` int32 [n], `tokens` one element after another
    (the batch's dtype, [lengths.sum()])."""

    lengths: NDArray[np.int32]
    tokens: Tokens

    def elements(self) -> list[Tokens]:
        """The elements as n arrays."""
        return np.split(self.tokens, np.cumsum(self.lengths)[:-1])


@dataclass(frozen=True, slots=True, eq=False)
class Provenance:
    """Where every token of x comes from; arrays of shape [B, L].

    `element` int32, 0..n-1 (a separator belongs to the element it closes); `offset` int32 inside
    the element (the separator has the element's length); `exposure` int32, how many times the
    element was spoken in full before in this sample; `corruption` uint8, KEPT 0, REPLACED 1 or
    MASKED 2. `languages`: one a sample, or a single one if all samples share it.
    """

    element: NDArray[np.int32]
    offset: NDArray[np.int32]
    exposure: NDArray[np.int32]
    corruption: NDArray[np.uint8]
    languages: tuple[Language, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Samples [first, first + B) of a stream; unpacks as `x, y = batch`.

    `x`, `y`: [B, L] of `spec.dtype`, writable. y[:, t] is the clean token that follows position t
    of x. `digest`: XXH3-64 of the bytes of x followed by those of y. `skipped`: ranges of samples
    (start, stop) that were asked to be left out and lie inside, so that the samples behind them
    have higher indices; see `indices`.
    """

    spec: Spec
    seed: int
    split: Split
    first: int
    x: Tokens
    y: Tokens
    digest: int
    provenance: Provenance | None = None
    generator: str = GENERATOR
    skipped: tuple[tuple[int, int], ...] = ()

    def __iter__(self) -> Iterator[Tokens]:
        return iter((self.x, self.y))

    @property
    def size(self) -> int:
        """B, the number of samples."""
        return len(self.x)

    @property
    def indices(self) -> NDArray[np.uint64]:
        """The index of each sample, [B]."""
        indices = np.arange(self.size, dtype=np.uint64) + np.uint64(self.first)
        for start, stop in self.skipped:
            indices[indices >= start] += np.uint64(stop - start)
        return indices

    def __repr__(self) -> str:
        return (
            f"Batch(first={self.first}, size={self.size}, L={self.spec.L}, seed={self.seed}, "
            f"split={self.split}, digest={self.digest:016x})"
        )

    def verify(self) -> None:
        """Raises CorruptBatch if x and y are not the bytes that `digest` was made of."""
        found = digest_of(self.x, self.y)
        if found != self.digest:
            raise CorruptBatch(
                f"batch at sample {self.first}: digest of the bytes is {found:016x}, "
                f"sent was {self.digest:016x}"
            )


def joined(parts: Sequence[Batch]) -> Batch:
    """Batches of one stream, in the order of their samples, as one."""
    if len(parts) == 1:
        return parts[0]
    x, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return replace(
        parts[0],
        x=x,
        y=y,
        digest=digest_of(x, y),
        provenance=_joined_provenance(parts),
        skipped=tuple(
            (before.first + before.size, behind.first) for before, behind in pairwise(parts)
        ),
    )


def _joined_provenance(parts: Sequence[Batch]) -> Provenance | None:
    found = [part.provenance for part in parts if part.provenance is not None]
    if not found:
        return None
    shared = parts[0].spec.language is not None
    return Provenance(
        element=np.concatenate([part.element for part in found]),
        offset=np.concatenate([part.offset for part in found]),
        exposure=np.concatenate([part.exposure for part in found]),
        corruption=np.concatenate([part.corruption for part in found]),
        languages=found[0].languages
        if shared
        else tuple(chain.from_iterable(part.languages for part in found)),
    )


def digest_of(x: Tokens, y: Tokens) -> int:
    """XXH3-64 of the bytes of x followed by those of y (little-endian, C order)."""
    state = xxhash.xxh3_64()
    for array in (x, y):
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        state.update(little.data.cast("B"))
    return state.intdigest()
