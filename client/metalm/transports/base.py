"""The seam between the client and the doors."""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol

from metalm_proto.batch import Batch
from metalm_proto.description import Description
from metalm_proto.errors import CorruptBatch
from metalm_proto.spec import BatchRequest, Spec


class Transport(Protocol):
    """A door to a generator. All doors give the same bytes and raise the same errors."""

    def batches(self, request: BatchRequest) -> Generator[Batch, None, None]:
        """The request's batches, in order; closing the generator ends the request.

        Raises any MetaLMError.
        """
        ...

    def describe(self, spec: Spec | None) -> Description:
        """What the generator offers and allows. Raises any MetaLMError."""
        ...

    def close(self) -> None:
        """Frees connections; may be called more than once."""
        ...


def check_batch(batch: Batch, request: BatchRequest, first: int, size: int) -> None:
    """Raises CorruptBatch unless the batch is the one that was asked for, x and y byte for byte.

    (Provenance has a digest of its own, which is checked where it is decoded.)
    """
    expected = {
        "generator": request.generator,
        "spec": request.spec,
        "seed": request.seed,
        "split": request.split,
        "first": first,
    }
    for name, value in expected.items():
        if getattr(batch, name) != value:
            raise CorruptBatch(f"asked for {name} {value}, got {getattr(batch, name)}")
    if batch.size != size:
        raise CorruptBatch(f"asked for {size} samples from {first}, got {batch.size}")
    if request.provenance and batch.provenance is None:
        raise CorruptBatch("asked for provenance, got none")
    batch.verify()
