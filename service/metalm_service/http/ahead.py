"""The batches of an admitted request: the next one is generated while one is on its way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Generic, TypeVar

from metalm_proto.batch import Batch
from metalm_service.handler import Admission, CallerGoneError

T = TypeVar("T")


class Ahead(Generic[T]):
    """Encoded batches, one after another, made on `executor`; `close` may be called from any
    thread."""

    def __init__(
        self, admission: Admission, encode: Callable[[Batch], T], executor: Executor
    ) -> None:
        self.call = admission.call
        self._admission = admission
        self._closed = False
        self._closing = threading.Lock()
        self._encoded = admission.batches(encode, lambda: not self._closed)
        self._executor = executor
        self._working: Future[T | None] = executor.submit(next, self._encoded, None)

    def upcoming(self) -> Future[T | None]:
        """The batch that `following` will give; None at the end."""
        return self._working

    def following(self) -> T | None:
        """The next batch, waited for, None at the end; the one behind it is begun.

        Raises what generating it raised, and CallerGoneError once it is closed.
        """
        encoded = self._working.result()
        with self._closing:
            # Else work could begin whose reservation was given back with that of the one before.
            if self._closed:
                raise CallerGoneError
            if encoded is not None:
                self._working = self._executor.submit(next, self._encoded, None)
        return encoded

    def taken(self) -> None:
        """The transport has taken the batch that was given last."""
        self._admission.taken()

    def abandon(self) -> None:
        """Nobody wants what is being generated: it ends soon, with CallerGoneError."""
        self._closed = True

    def close(self) -> None:
        """Ends the work. The reservation is kept until the thread that fills its bytes is done."""
        with self._closing:
            self._closed = True
        self._working.add_done_callback(lambda _: self._admission.close())
