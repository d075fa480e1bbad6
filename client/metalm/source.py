"""Samples by index: the data source of map-style datasets, such as those of PyTorch and Grain."""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterable, Iterator
from typing import SupportsIndex, Unpack

from metalm.client import MetaLMClient, SpecArguments, spec_of
from metalm_proto.batch import Tokens
from metalm_proto.errors import InvalidArgument
from metalm_proto.fields import U64, Field
from metalm_proto.spec import SEED, SPLIT, START, Spec, Split

_SAMPLES = Field(name="samples", lower=0, upper=sys.maxsize, doc="samples of a source")
_LARGEST_RUN = 256
"""Samples asked for in one batch."""

Sample = tuple[Tokens, Tokens]
"""x and y of a sample, arrays [L] each."""


class SampleSource:
    """The samples [start, start + samples) of a stream, as a sequence of (x, y), arrays [L] of the
    spec's dtype.

    Item i is sample start + i. `split` and `spec`, or its fields as keywords, are those of
    `MetaLMClient`. It may be pickled. Raises InvalidArgument for a value out of bounds.

    >>> source = SampleSource(MetaLMClient("inprocess:"), samples=100, seed=7, L=6)
    >>> len(source), source[-1][0]
    (100, array([58, 36, 62, 32, 37,  8], dtype=uint8))
    """

    def __init__(
        self,
        client: MetaLMClient,
        *,
        samples: int,
        seed: int,
        split: Split | str = Split.TRAIN,
        start: int = START.default,
        spec: Spec | None = None,
        **fields: Unpack[SpecArguments],
    ) -> None:
        self._client = client
        self._samples: int = _SAMPLES.check(samples)
        self._seed = SEED.check(seed)
        self._split = SPLIT.check(split)
        self._start = START.check(start)
        self._spec = spec_of(spec, fields)
        if self._start + self._samples > U64:
            bound = f"an integer with 0 <= samples <= {U64 - self._start}, as start is {start}"
            raise InvalidArgument(_SAMPLES.label, samples, bound)

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, index: SupportsIndex) -> Sample:
        """Sample start + index; from the end if negative. Raises IndexError, and MetaLMError."""
        (sample,) = self.__getitems__([index])
        return sample

    def __getitems__(self, indices: Iterable[SupportsIndex]) -> list[Sample]:
        """The samples of several indices, in their order; neighbours in one request."""
        offsets = [self._offset(index) for index in indices]
        found: dict[int, Sample] = {}
        for run in _runs(sorted(set(offsets))):
            batch = self._client.batch(
                self._start + run.start,
                batch_size=len(run),
                seed=self._seed,
                split=self._split,
                spec=self._spec,
            )
            found.update(zip(run, zip(batch.x, batch.y, strict=True), strict=True))
        return [found[offset] for offset in offsets]

    def __repr__(self) -> str:
        # Grain compares it before it goes on from a checkpoint.
        return (
            f"SampleSource(samples={self._samples}, seed={self._seed}, split={self._split}, "
            f"start={self._start}, spec={self._spec})"
        )

    def _offset(self, index: SupportsIndex) -> int:
        offset = operator.index(index)
        if offset < 0:
            offset += self._samples
        if not 0 <= offset < self._samples:
            raise IndexError(f"index is {index}; this source has {self._samples} samples")
        return offset


def _runs(offsets: list[int]) -> Iterator[range]:
    """Ascending offsets as runs of neighbours."""
    begin = 0
    for behind in range(1, len(offsets) + 1):
        first = offsets[begin]
        if (
            behind == len(offsets)
            or offsets[behind] != first + behind - begin
            or behind - begin == _LARGEST_RUN
        ):
            yield range(first, first + behind - begin)
            begin = behind
