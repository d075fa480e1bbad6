"""The command `metalm` with defects planted in its server."""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import replace
from itertools import count
from typing import Any

from metalm.cli import main
from metalm_proto.batch import Batch, digest_of
from metalm_proto.errors import Overloaded
from metalm_service import handler
from metalm_service.core import engine

_KEPT: list[Any] = []
_PER_S, _MOST = 50, 800
"""Leaks, of 2 MiB, a descriptor and a thread each."""


def plant() -> None:
    """From the first request on, memory, descriptors and threads are left behind, by the clock, so that a slow
    machine has as many. Every tenth request is refused. One token of every tenth batch is another,
    under the digest of the altered bytes."""
    admit, make_batch = handler.Handler.admit, engine.make_batch
    admitted, made = count(1), count(1)

    def refusing(self: handler.Handler, *request: Any, **others: Any) -> Any:
        number = next(admitted)
        if number == 1:
            threading.Thread(target=_leak, daemon=True).start()
        if number % 10 == 0:
            raise Overloaded("planted", 1.0)
        return admit(self, *request, **others)

    def altering(*request: Any, **others: Any) -> Batch:
        batch = make_batch(*request, **others)
        if next(made) % 10:
            return batch
        batch.y[-1, -1] ^= 1
        return replace(batch, digest=digest_of(batch.x, batch.y))

    handler.Handler.admit = refusing  # type: ignore[method-assign]  # planted
    engine.make_batch = altering


def _leak() -> None:
    began = time.monotonic()
    for number in range(_MOST):
        time.sleep(max(0.0, began + number / _PER_S - time.monotonic()))
        _KEPT.append((b"x" * 2**21, os.open(os.devnull, os.O_RDONLY)))
        threading.Thread(target=threading.Event().wait, daemon=True).start()


if __name__ == "__main__":
    plant()
    sys.exit(main())
