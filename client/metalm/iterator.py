"""A cursor over a stream of samples."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import replace

from metalm.transports.base import Transport, check_batch
from metalm_proto.batch import Batch
from metalm_proto.description import Limits
from metalm_proto.errors import MetaLMError, Unavailable
from metalm_proto.spec import BatchRequest

_WINDOW_BYTES = 2**28
_WINDOW_BATCHES = 2**16


class BatchIterator(Iterator[Batch]):
    """The batches of a request, in order, each verified before it is handed out.

    A long range is asked for in windows, bounded requests one after another, so that no request
    is longer than a server allows. `position` is the first sample not yet handed out: a run that
    starts there goes on exactly where this one stopped. Not thread-safe.
    """

    def __init__(
        self,
        transport: Callable[[], Transport],
        request: BatchRequest | None,
        seed: int,
        position: int,
        limits: Callable[[], Limits | None],
    ) -> None:
        self.seed = seed
        self.position = position
        self._transport = transport
        self._request = request
        self._limits = limits
        self._window: Generator[Batch, None, None] | None = None
        self._window_stop = position

    def __next__(self) -> Batch:
        request = self._request
        if request is None or self.position >= request.stop:
            self.close()
            raise StopIteration
        try:
            if self._window is None or self.position >= self._window_stop:
                self._open(request)
            assert self._window is not None
            batch = next(self._window, None)
            if batch is None:
                raise Unavailable(f"the stream ended before sample {self.position}")
            size = min(request.batch_size, request.stop - self.position)
            check_batch(batch, request, self.position, size)
        except BaseException:
            self.close()
            raise
        self.position += size
        return batch

    def close(self) -> None:
        """Ends the request that is under way; the iterator may go on, with a new one."""
        window, self._window = self._window, None
        if window is None:
            return
        if self.position >= self._window_stop:
            # Read to its very end, its connection can be used again. All samples are here and
            # verified: what goes wrong now is of no matter.
            with suppress(MetaLMError):
                next(window, None)
        window.close()

    def __enter__(self) -> BatchIterator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, request: BatchRequest) -> None:
        self.close()
        spec, size = request.spec, request.batch_size
        batch_bytes = 2 * size * spec.L * spec.dtype.itemsize
        batches = max(1, min(_WINDOW_BATCHES, _WINDOW_BYTES // batch_bytes))
        limits = self._limits()
        if limits is not None:
            batches = max(1, min(batches, limits.max_request_samples // size))
        self._window_stop = min(request.stop, self.position + batches * size)
        self._window = self._transport().batches(
            replace(request, start=self.position, stop=self._window_stop)
        )
