"""gRPC calls whose reader takes nothing.

gRPC waits for a reader for ever, with a thread and all bytes that were reserved for the call.
"""

from __future__ import annotations

import logging
import threading
import time

import grpc

_SLOWEST_BYTES_S = 2**20
"""A reader has this much more time for a large message: gRPC does not say what is left of it."""
_LOOK_EVERY_S = 0.5

_log = logging.getLogger(__name__)


class Reader:
    """Whoever reads the answers of one call."""

    def __init__(self, context: grpc.ServicerContext, timeout_s: float) -> None:
        self._context = context
        self._timeout_s = timeout_s
        self._until: float | None = None

    def given(self, size: int) -> None:
        """A message of `size` bytes is on its way to it."""
        self._until = time.monotonic() + self._timeout_s + size / _SLOWEST_BYTES_S

    def taken(self) -> None:
        """It is the service's turn again."""
        self._until = None

    def look(self) -> None:
        until = self._until
        if until is not None and time.monotonic() > until:
            _log.warning("a reader took nothing for %g s", self._timeout_s)
            self.taken()
            self._context.cancel()


class StallWatch:
    """Looks at all readers again and again; cancels the calls of those that have stalled."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._readers: set[Reader] = set()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stalls", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def reader(self, context: grpc.ServicerContext) -> Reader:
        """The reader of a call, watched until the call has ended."""
        reader = Reader(context, self._timeout_s)
        with self._lock:
            self._readers.add(reader)
        if not context.add_callback(lambda: self._forget(reader)):
            self._forget(reader)
        return reader

    def _forget(self, reader: Reader) -> None:
        with self._lock:
            self._readers.discard(reader)

    def _run(self) -> None:
        while not self._stopped.wait(_LOOK_EVERY_S):
            with self._lock:
                readers = list(self._readers)
            for reader in readers:
                reader.look()
