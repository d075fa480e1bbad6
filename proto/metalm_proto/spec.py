"""What a batch is a function of: `Spec`, and `BatchRequest` around it.

Both are validated at birth, here and nowhere else, whatever door a request came
through.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

import numpy as np

from metalm_proto.errors import InvalidArgument, UnknownGenerator
from metalm_proto.fields import U64, Field

GENERATOR = "metalm-1"
GENERATORS = (GENERATOR,)


class Profile(StrEnum):
    """Which definition of the distribution holds.

    `metalm` is the README's; `metagym` the distribution of MetaGym's code as shipped (token V and
    the last element never occur, a replacement may equal the original).
    """

    METALM = "metalm"
    METAGYM = "metagym"


class Split(StrEnum):
    """Disjoint streams of one seed."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"

    @property
    def code(self) -> int:
        """The number that enters the random counter: 0, 1, 2."""
        return list(Split).index(self)


SPEC_FIELDS = (
    Field(
        name="V",
        wire="vocab_size",
        default=64,
        lower=2,
        upper=2**31 - 3,
        doc="vocabulary: regular tokens are 1..V, the mask is 0, the separator V+1",
    ),
    Field(
        name="n",
        wire="elements_number",
        default=10,
        lower=1,
        upper=2**24 - 1,
        doc="elements (patterns) of a language; profile metagym needs at least 2",
    ),
    Field(
        name="l",
        wire="elements_length",
        kind=float,
        default=64.0,
        lower=0,
        open_lower=True,
        upper=2**20,
        doc="Poisson mean of an element's length in tokens",
    ),
    Field(
        name="e",
        wire="error_rate",
        kind=float,
        default=0.10,
        lower=0,
        upper=1,
        open_upper=True,
        doc="probability that a token of an element is corrupted",
    ),
    Field(
        name="L",
        wire="sequence_length",
        default=4096,
        lower=1,
        # Token t takes its noise from Philox block 16 (t div 64) + ..., a 32-bit counter.
        upper=2**34,
        doc="tokens in a sample",
    ),
    Field(
        name="mask_ratio",
        kind=float,
        default=0.30,
        lower=0,
        upper=1,
        doc="share of corruptions that become the mask",
    ),
    Field(
        name="profile",
        kind=Profile,
        default=Profile.METALM,
        doc="metalm: as MetaLM is defined; metagym: as MetaGym's code draws it (token V and the "
        "last element never occur, a replacement may equal the original)",
    ),
    Field(
        name="language",
        lower=0,
        upper=U64 - 1,
        doc="absent: each sample has its own language; k: all speak that of the split's sample k",
    ),
)
_BY_NAME = {field.name: field for field in SPEC_FIELDS}


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """The distribution MetaLM(V, n, l, e, L) that a sample is drawn from.

    V: vocabulary, the regular tokens are 1..V, the mask is 0, the separator V+1.
    n: elements of a language. l: Poisson mean of an element's length in tokens.
    e: probability that a token of an element is corrupted. L: tokens in a sample.
    mask_ratio: share of corruptions that become the mask.
    profile: "metalm", or "metagym" to compare with MetaGym's published curves (see `Profile`).
    language: None, each sample has a language of its own; k, all samples of the split speak the
    one that sample k would have had.

    Raises InvalidArgument for a value out of bounds, and names the bound.

    Two elements over four tokens, spoken until 12 tokens are reached. The separator is 5, the
    mask 0; y[t] is the clean token that follows position t:

    >>> from metalm import MetaLMClient
    >>> client = MetaLMClient("inprocess:")
    >>> x, y = client.sample(V=4, n=2, l=3, e=0.2, L=12, seed=0)
    >>> x
    array([[2, 2, 1, 5, 3, 2, 0, 2, 3, 3, 3, 5]], dtype=uint8)
    >>> y
    array([[2, 1, 5, 3, 2, 4, 1, 3, 3, 3, 5, 2]], dtype=uint8)

    Here the elements are "2 2 1" and "3 2 4 1 3 3 3", and the 4 was masked.
    """

    V: int = _BY_NAME["V"].default
    n: int = _BY_NAME["n"].default
    l: float = _BY_NAME["l"].default
    e: float = _BY_NAME["e"].default
    L: int = _BY_NAME["L"].default
    mask_ratio: float = _BY_NAME["mask_ratio"].default
    profile: Profile = _BY_NAME["profile"].default
    language: int | None = None

    def __post_init__(self) -> None:
        for field in SPEC_FIELDS:
            value = getattr(self, field.name)
            if value is not None or field.default is not None:
                object.__setattr__(self, field.name, field.check(value))
        if self.profile is Profile.METAGYM and self.n < 2:
            field = _BY_NAME["n"]
            bound = f"an integer with 2 <= n <= {field.upper} in profile metagym"
            raise InvalidArgument(field.label, self.n, bound)

    @property
    def mask_id(self) -> int:
        return 0

    @property
    def separator_id(self) -> int:
        return self.V + 1

    @property
    def vocabulary(self) -> int:
        """Number of token ids: the mask, 1..V and the separator."""
        return self.V + 2

    def ids(self) -> dict[str, int]:
        """The special ids and how many ids there are, as answers show them."""
        return {
            "mask": self.mask_id,
            "separator": self.separator_id,
            "vocabulary": self.vocabulary,
        }

    @property
    def alphabet(self) -> int:
        """A: elements consist of the tokens 1..A."""
        return self.V - (self.profile is Profile.METAGYM)

    @property
    def usable_elements(self) -> int:
        """k: elements 0..k-1 are spoken."""
        return self.n - (self.profile is Profile.METAGYM)

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8 where V+2 <= 2^8, uint16 where V+2 <= 2^16, else int32; little-endian."""
        if self.vocabulary <= 2**8:
            return np.dtype("|u1")
        return np.dtype("<u2") if self.vocabulary <= 2**16 else np.dtype("<i4")

    def as_dict(self) -> dict[str, Any]:
        """The fields under their short names, as plain JSON types, defaults filled in."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**values, "profile": str(self.profile)}


SEED = Field(
    name="seed",
    lower=0,
    upper=U64 - 1,
    doc="names the stream; if none is given, one is drawn and told in the answer",
)
SPLIT = Field(
    name="split", kind=Split, default=Split.TRAIN, doc="disjoint streams of the same seed"
)
START = Field(name="start", default=0, lower=0, upper=U64 - 1, doc="index of the first sample")
STOP = Field(name="stop", lower=1, upper=U64, doc="index after the last sample")
INDEX = Field(name="index", default=0, lower=0, upper=U64 - 1, doc="index of the sample")
FIRST = Field(name="first", default=0, lower=0, upper=U64 - 1, doc="index of the first sample")
SIZE = Field(name="size", default=1, lower=1, upper=2**31 - 1, doc="samples in the batch")
BATCH_SIZE = Field(
    name="batch_size",
    default=32,
    lower=1,
    upper=2**31 - 1,
    doc="samples a batch; the last batch may be smaller",
)
STRIDE = Field(
    name="stride",
    lower=1,
    upper=U64,
    doc="samples from the first of a batch to the first of the next; absent: batch_size",
)
GENERATOR_FIELD = Field(name="generator", kind=str, default=GENERATOR, doc="name of the stream")
PROVENANCE = Field(
    name="provenance",
    kind=bool,
    default=False,
    doc="adds element, offset, exposure and corruption of every token, and the language",
)
REQUEST_FIELDS = (SEED, SPLIT, START, STOP, BATCH_SIZE, STRIDE, GENERATOR_FIELD, PROVENANCE)


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRequest:
    """The samples [start, stop) of one stream, in batches of `batch_size`.

    With a `stride` above batch_size, the first batch_size of every `stride` samples: what one of
    several ranks takes. None stands for batch_size.

    Raises InvalidArgument or UnknownGenerator.
    """

    spec: Spec
    seed: int
    stop: int
    start: int = START.default
    batch_size: int = BATCH_SIZE.default
    stride: int | None = None
    split: Split = Split.TRAIN
    generator: str = GENERATOR
    provenance: bool = False

    def __post_init__(self) -> None:
        if self.stride is None:
            object.__setattr__(self, "stride", self.batch_size)
        for field in REQUEST_FIELDS:
            object.__setattr__(self, field.name, field.check(getattr(self, field.name)))
        if self.step < self.batch_size:
            bound = f"an integer with {self.batch_size} <= stride <= {U64}, at least batch_size"
            raise InvalidArgument(STRIDE.label, self.stride, bound)
        if self.stop <= self.start:
            bound = f"an integer with {self.start + 1} <= stop <= {U64}, above start"
            raise InvalidArgument(STOP.label, self.stop, bound)
        if self.generator not in GENERATORS:
            bound = "one of " + ", ".join(GENERATORS)
            raise UnknownGenerator(GENERATOR_FIELD.label, self.generator, bound)

    @classmethod
    def single(
        cls, *, spec: Spec, first: int = FIRST.default, size: int = SIZE.default, **others: Any
    ) -> BatchRequest:
        """One batch: the samples [first, first + size)."""
        first, size = FIRST.check(first), SIZE.check(size)
        if first + size > U64:
            bound = f"an integer with 1 <= size <= {U64 - first}, as first is {first}"
            raise InvalidArgument(SIZE.label, size, bound)
        return cls(spec=spec, start=first, stop=first + size, batch_size=size, **others)

    @property
    def samples(self) -> int:
        """Samples in all batches together."""
        full, last = self.sizes()
        return full * self.batch_size + last

    @property
    def count(self) -> int:
        """Batches."""
        full, last = self.sizes()
        return full + (last > 0)

    @property
    def largest_batch(self) -> int:
        """Samples in the largest batch of the request."""
        return min(self.batch_size, self.stop - self.start)

    def sizes(self) -> tuple[int, int]:
        """How many batches are full, and how many samples a smaller last one has (0: none)."""
        full, rest = divmod(self.stop - self.start, self.step)
        return (full, rest) if rest < self.batch_size else (full + 1, 0)

    def ranges(self) -> Iterator[tuple[int, int]]:
        """(first, size) of each batch, in order."""
        for first in range(self.start, self.stop, self.step):
            yield first, min(self.batch_size, self.stop - first)

    @property
    def step(self) -> int:
        """Samples from the first of a batch to the first of the next."""
        assert self.stride is not None  # filled in at birth
        return self.stride


def draw_seed() -> int:
    """A fresh seed, for callers that gave none. Below 2^53, so that every JSON reader keeps it."""
    return secrets.randbelow(2**53)
