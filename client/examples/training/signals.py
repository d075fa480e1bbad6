"""The end of a run before its time: between two steps."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Asked:
    """`number`: the signal that asked for the end, None until then."""

    number: int | None = None


@contextmanager
def asked_to_stop() -> Iterator[Asked]:
    """SIGINT and SIGTERM ask for the end, once; the second ends the program as ever."""
    asked = Asked()

    def ask(number: int, _: FrameType | None) -> None:
        asked.number = number
        restore()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        yield asked
    finally:
        restore()
