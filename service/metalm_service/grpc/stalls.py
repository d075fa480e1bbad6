"""gRPC calls whose caller sends nothing, or takes nothing.

gRPC waits for both for ever, with a thread and all bytes that were reserved for the call.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

_SLOWEST_BYTES_S = 2**21
"""A reader has this much more time for a large message: gRPC does not say what is left of it."""
_LOOK_EVERY_S = 0.5

_log = logging.getLogger(__name__)


class Context(Protocol):
    """What of a call's context is needed here."""

    def cancel(self) -> None: ...


class Waited:
    """What a call waits for. `stalled`: whether that took too long, and the call was cancelled."""

    def __init__(self, context: Context) -> None:
        self.stalled = False
        self._context = context
        self._until: float | None = None

    def within(self, seconds: float) -> None:
        """It is waited for from now on."""
        self._until = time.monotonic() + seconds

    def over(self) -> None:
        """It has come."""
        self._until = None

    def look(self) -> None:
        until = self._until
        if until is not None and time.monotonic() > until:
            self.stalled = True
            self.over()
            self._context.cancel()


class Reader(Waited):
    """Whoever reads the answers of one call."""

    def __init__(self, context: Context, timeout_s: float) -> None:
        super().__init__(context)
        self._timeout_s = timeout_s

    def given(self, size: int) -> None:
        """A message of `size` bytes is on its way to it."""
        self.within(self._timeout_s + size / _SLOWEST_BYTES_S)

    def taken(self) -> None:
        """It is the service's turn again."""
        self.over()

    def look(self) -> None:
        super().look()
        if self.stalled:
            _log.warning("a reader took nothing for %g s", self._timeout_s)
            self.stalled = False


class StallWatch:
    """Looks at all that calls wait for, again and again; cancels those that wait too long.

    `timeout_s`: how long a reader may take nothing.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._waited: set[Waited] = set()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stalls", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def watch_until(self, over: threading.Event) -> None:
        """Ends with `over`."""
        self._over = over

    @contextmanager
    def reader(self, context: Context) -> Iterator[Reader]:
        """The reader of a call's answers."""
        reader = Reader(context, self._timeout_s)
        with self._watched(reader):
            yield reader

    @contextmanager
    def sender(self, context: Context, timeout_s: float) -> Iterator[Waited]:
        """Whoever is to send the call's next message, and that within `timeout_s`."""
        sender = Waited(context)
        sender.within(timeout_s)
        with self._watched(sender):
            yield sender

    @contextmanager
    def _watched(self, waited: Waited) -> Iterator[None]:
        with self._lock:
            self._waited.add(waited)
        try:
            yield
        finally:
            with self._lock:
                self._waited.discard(waited)

    def _run(self) -> None:
        while not self._over.wait(_LOOK_EVERY_S):
            with self._lock:
                waited = list(self._waited)
            for each in waited:
                try:
                    each.look()
                except Exception:
                    # One call must not end the watch over all others.
                    _log.exception("a call that waits could not be looked at")
