"""Compares what a trainer was given with what the twin in this process generates."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from metalm import Batch, MetaLMClient
from metalm_proto.batch import digest_of

BATCH_SIZE = 16
SPEC: dict[str, Any] = {"V": 64, "n": 8, "l": 8.0, "L": 64}
"""Quick to generate: what is tested is the way."""
_RECORD = struct.Struct("<QQQd")


class Given(NamedTuple):
    """A batch as a trainer saw it; the digest is of its bytes, whatever digest it came with.

    `waited_s`: how long the trainer waited for it.
    """

    seed: int
    first: int
    digest: int
    waited_s: float = 0.0

    @classmethod
    def of(cls, batch: Batch, waited_s: float = 0.0) -> Given:
        return cls(batch.seed, batch.first, digest_of(batch.x, batch.y), waited_s)

    def packed(self) -> bytes:
        return _RECORD.pack(*self)


def recorded(path: Path) -> list[Given]:
    """What a trainer wrote down; the last record may be cut if it was killed."""
    data = path.read_bytes()
    whole = len(data) - len(data) % _RECORD.size
    return [Given(*fields) for fields in _RECORD.iter_unpack(data[:whole])]


@dataclass(frozen=True)
class Finding:
    """What is wrong with a trainer's batches, and how many times.

    `kind`: "foreign" (of another stream), "misaligned" (a batch that the run does not have),
    "altered", "doubled", "reordered" or "lost". `first`: the sample where it was seen first.
    """

    kind: str
    first: int
    count: int


def findings(given: Iterable[Given], *, count: int, stream: dict[str, Any]) -> list[Finding]:
    """Whatever differs from the `count` batches of the run that `stream`, the arguments of
    `MetaLMClient.batches`, names."""
    with MetaLMClient("inprocess:") as twin:
        true = {
            batch.first: digest_of(batch.x, batch.y)
            for batch in twin.batches(**stream, count=count, prefetch_bytes=0)
        }
    wrong = list(_wrong(list(given), true, stream["seed"]))
    counts = Counter(kind for kind, _ in wrong)
    firsts = dict(reversed(wrong))
    return [Finding(kind, firsts[kind], number) for kind, number in counts.items()]


def _wrong(given: list[Given], true: dict[int, int], seed: int) -> Iterator[tuple[str, int]]:
    seen: Counter[int] = Counter()
    order = []
    for batch in given:
        if batch.seed != seed:
            yield "foreign", batch.first
        elif batch.first not in true:
            yield "misaligned", batch.first
        elif batch.digest != true[batch.first]:
            yield "altered", batch.first
        elif seen[batch.first]:
            yield "doubled", batch.first
        else:
            order.append(batch.first)
        seen[batch.first] += 1
    for before, behind in pairwise(order):
        if behind < before:
            yield "reordered", behind
    for first in true:
        if not seen[first]:
            yield "lost", first
