"""Signals that end a command, as exceptions: what is half-written is then taken away."""

from __future__ import annotations

import signal
import sys
from typing import NoReturn

_received: list[int] = []


def end_by_exception() -> None:
    """From now on SIGTERM and, unless it is ignored, SIGINT are exceptions."""
    _received.clear()
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _received_now)


def check_ending() -> None:
    """Raises what a signal raised before. A library that was calling back may have lost it."""
    if _received:
        _end(_received[0])


def _received_now(number: int, frame: object) -> None:
    _received.append(number)
    _end(number)


def _end(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
