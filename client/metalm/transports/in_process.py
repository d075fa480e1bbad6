"""The generator in the caller's own process: no server, the same bytes."""

from __future__ import annotations

import threading
from collections.abc import Generator
from importlib.metadata import version

from metalm.transports.base import BatchStream
from metalm_proto.batch import Batch
from metalm_proto.description import Description
from metalm_proto.errors import LimitExceeded, Unavailable
from metalm_proto.spec import BatchRequest, Spec


class InProcessTransport:
    """Generates here: with numba if it is installed (`pip install '.[core]'`), else with numpy."""

    def __init__(self) -> None:
        # Not before it is asked for: a client of a service needs no generator.
        from metalm_service.core import engine

        self._engine = engine

    def batches(self, request: BatchRequest) -> BatchStream:
        closed = threading.Event()
        return BatchStream(self._batches(request, closed), closed.set)

    def _batches(
        self, request: BatchRequest, closed: threading.Event
    ) -> Generator[Batch, None, None]:
        def proceed() -> None:
            if closed.is_set():
                raise Unavailable("the request was closed")

        for first, size in request.ranges():
            try:
                batch = self._engine.make_batch(request, first, size, proceed)
            except (MemoryError, ValueError) as error:  # numpy's for more than it can address
                count = self._engine.cost_of(request).batch_bytes
                bound = f"smaller (or L, n or provenance): {count} bytes do not fit into memory"
                raise LimitExceeded("batch_size", size, bound) from error
            yield batch

    def describe(self, spec: Spec | None, timeout_s: float | None = None) -> Description:
        return Description(
            version=version("metalm"), engine=self._engine.engine_name(), limits=None, spec=spec
        )

    def close(self) -> None:
        """Nothing is held."""
