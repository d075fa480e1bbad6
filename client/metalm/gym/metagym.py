"""MetaGym's interface to MetaLM: samples, batches and files, one after another."""

from __future__ import annotations

import os
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from metalm.files.base import batches_of
from metalm.files.single import write
from metalm.gym.source import Sourced
from metalm_proto import formats
from metalm_proto.batch import Tokens
from metalm_proto.fields import U64, Field
from metalm_proto.spec import BATCH_SIZE

_POSITION = Field(name="position", lower=0, upper=U64, doc="the next sample")
_SIZE = Field(name="size", lower=1, upper=U64, doc="samples to write")


class MetaGym(Sourced):
    """The methods and attributes of MetaGym's MetaLM, over a seeded stream.

    `position` counts the samples that were handed out, in whatever way: it is the index of the next
    one, may be set, and together with `stream_seed` is all that there is to a checkpoint. When an
    error is raised, it stays where it was.
    """

    _position = 0

    @property
    def stream_seed(self) -> int:
        """The seed of the stream; the one that was drawn, if none was given."""
        return self._seed

    @property
    def position(self) -> int:
        """The index of the next sample; InvalidArgument for one that is out of bounds."""
        return self._position

    @position.setter
    def position(self, index: int) -> None:
        self._position = _POSITION.check(index)

    @property
    def VocabSize(self) -> int:  # noqa: N802  # MetaGym's names, here and below
        """Number of token ids, V+2."""
        return self.data_spec.vocabulary

    @property
    def SepID(self) -> int:  # noqa: N802
        """The separator, V+1."""
        return self.data_spec.separator_id

    @property
    def MaskID(self) -> int:  # noqa: N802
        """The mask, 0."""
        return self.data_spec.mask_id

    @property
    def PaddingID(self) -> int:  # noqa: N802
        """0, the mask's: samples need no padding."""
        return self.data_spec.mask_id

    def data_generator(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """x and y of the next sample: int32 [L]. Raises any MetaLMError."""
        x, y = self._take(1)
        return x[0].astype(np.int32), y[0].astype(np.int32)

    def batch_generator(self, batch_size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """x and y of the next samples: int64 [batch_size, L]. Raises any MetaLMError."""
        x, y = self._take(BATCH_SIZE.check(batch_size))
        return x.astype(np.int64), y.astype(np.int64)

    def generate_to_file(self, size: int, output: str | os.PathLike[str] | TextIO) -> None:
        """Writes the next `size` samples as text: a line a sample, `x,y` pairs with tabs between.

        `output` is the path of a file, which is written whole or not at all, or an open text
        stream, where `position` counts what was written if an error comes in between. Raises
        OSError and any MetaLMError.
        """
        size = _SIZE.check(size)
        request = self._source.request(self._position, size, self._seed)
        if isinstance(output, str | os.PathLike):
            write(self._source.client, request, os.path.abspath(output), "text")
            self._position += size
            return
        with batches_of(self._source.client, request) as batches:
            for batch in batches:
                output.write(formats.to_text(batch))
                self._position += batch.size

    def _take(self, size: int) -> tuple[Tokens, Tokens]:
        samples = self._source.samples(self._position, size, self._seed)
        self._position += size
        return samples
