"""The seam between the client and the doors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from typing import NoReturn, Protocol

from metalm_proto.batch import Batch
from metalm_proto.description import Description
from metalm_proto.errors import CorruptBatch, Unavailable
from metalm_proto.spec import BatchRequest, Spec

CONNECT_S = 3.0
"""A host that takes longer to accept a connection is not there; another may be."""


class Transport(Protocol):
    """A door to a generator. All doors give the same bytes and raise the same errors."""

    def batches(self, request: BatchRequest) -> BatchStream:
        """The request's batches, in order. Nothing is sent before the first is asked for.

        Its `next` raises any MetaLMError.
        """
        ...

    def describe(self, spec: Spec | None, timeout_s: float | None = None) -> Description:
        """What the generator offers and allows; `timeout_s` in place of the transport's own.

        Raises any MetaLMError.
        """
        ...

    def close(self) -> None:
        """Frees connections; may be called more than once."""
        ...


class BatchStream(Iterator[Batch]):
    """The batches of one request.

    One thread iterates; any thread may close. `interrupt` makes a `next` that waits in another
    thread give up.
    """

    def __init__(
        self, batches: Generator[Batch, None, None], interrupt: Callable[[], None]
    ) -> None:
        self._batches = batches
        self._interrupt = interrupt
        self._closed = False
        self._iterating = threading.Lock()

    def __next__(self) -> Batch:
        with self._iterating:
            if self._closed:
                self._batches.close()
                raise Unavailable("the request was closed")
            return next(self._batches)

    def close(self) -> None:
        """Ends the request. A `next` that another thread waits in raises an error soon."""
        self._closed = True
        self._interrupt()
        # Not waited for: the thread that holds it was interrupted, and closes on its way out.
        if self._iterating.acquire(blocking=False):
            try:
                self._batches.close()
            finally:
                self._iterating.release()

    def reject(self, error: CorruptBatch) -> NoReturn:
        """Tells the door that the last batch was not what was asked for, and raises the error."""
        with self._iterating:
            self._batches.throw(error)
        raise error

    def __enter__(self) -> BatchStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
