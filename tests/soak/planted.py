"""The command `metalm` with defects planted in its server."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import replace
from itertools import count
from typing import Any

from metalm.cli import main
from metalm_proto.batch import Batch, digest_of
from metalm_proto.errors import Overloaded
from metalm_service import handler
from metalm_service.core import engine

_KEPT: list[Any] = []


def plant() -> None:
    """Each request leaves memory, a descriptor and a thread behind; every tenth is refused; one
    token of every fiftieth batch is another, under the digest of the altered bytes."""
    admit, make_batch = handler.Handler.admit, engine.make_batch
    admitted, made = count(1), count(1)

    def admit_and_leak(self: handler.Handler, *request: Any, **others: Any) -> Any:
        number = next(admitted)
        if number % 10 == 0:
            raise Overloaded("planted", 1.0)
        _KEPT.append(b"x" * 2**20)
        if number < 500:
            _KEPT.append(os.open(os.devnull, os.O_RDONLY))
            threading.Thread(target=threading.Event().wait, daemon=True).start()
        return admit(self, *request, **others)

    def make_and_alter(*request: Any, **others: Any) -> Batch:
        batch = make_batch(*request, **others)
        if next(made) % 50:
            return batch
        batch.y[-1, -1] ^= 1
        return replace(batch, digest=digest_of(batch.x, batch.y))

    handler.Handler.admit = admit_and_leak  # type: ignore[method-assign]
    engine.make_batch = make_and_alter


if __name__ == "__main__":
    plant()
    sys.exit(main())
