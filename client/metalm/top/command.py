"""The command `metalm top`."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from metalm import flags
from metalm.credentials import Credentials
from metalm.top.replicas import Replica, Replicas
from metalm.top.table import table
from metalm_proto.fields import Field

INTERVAL = Field(
    name="interval_s",
    kind=float,
    default=1.0,
    lower=0.1,
    upper=3600,
    doc="seconds between two looks, and what rates and quantiles are of",
)
_TIMEOUT_S = 2.0
"""For an answer: a replica that needs longer is as good as gone."""

# ECMA-48, and the private modes of xterm for the alternate screen and the cursor.
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _END_OF_LINE, _END_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
_BOLD, _RED, _PLAIN = "\x1b[1m", "\x1b[31m", "\x1b[0m"


def add_top_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "url",
        nargs="+",
        metavar="URL",
        help="where /metrics is, http:// or https://; a name stands for all its addresses",
    )
    flags.add(parser, INTERVAL)
    flags.add_credentials(parser)
    parser.add_argument(
        "--once", action="store_true", help="print one table, of one interval, and end"
    )


def top(options: argparse.Namespace) -> int:
    """Shows the table until it is interrupted, or once: then 1 if a replica does not answer.

    Raises InvalidArgument.
    """
    interval_s = flags.parsed(INTERVAL, options)
    replicas = Replicas(options.url, _TIMEOUT_S, Credentials(**flags.credentials(options)))
    try:
        if options.once:
            return _once(replicas, interval_s)
        with _screen() as screen:
            for seen in _looks(replicas, interval_s):
                screen.show(seen, replicas.lost_names)
        return 0
    finally:
        replicas.close()


def _once(replicas: Replicas, interval_s: float) -> int:
    looks = _looks(replicas, interval_s)
    next(looks)
    seen = next(looks)
    print(*table(seen), sep="\n")
    troubles = _troubles(seen, replicas.lost_names)
    print(*(f"metalm: {trouble}\n" for trouble in troubles), sep="", end="", file=sys.stderr)
    return 1 if troubles else 0


def _looks(replicas: Replicas, interval_s: float) -> Iterator[list[Replica]]:
    """A look at once, and then one an interval, whatever the looks themselves take."""
    due = time.monotonic()
    while True:
        yield replicas.look()
        due = max(due + interval_s, time.monotonic())
        time.sleep(due - time.monotonic() if due > time.monotonic() else 0)


def _troubles(replicas: Sequence[Replica], lost_names: Sequence[str]) -> list[str]:
    return [*(replica.trouble for replica in replicas if replica.trouble), *lost_names]


class _Screen:
    """Where the table goes. `steerable`: it is a terminal that understands escape sequences."""

    def __init__(self, steerable: bool) -> None:
        self._steerable = steerable
        self._coloured = steerable and not os.environ.get("NO_COLOR")

    def show(self, replicas: Sequence[Replica], lost_names: Sequence[str]) -> None:
        width, height = shutil.get_terminal_size()
        lines = table(replicas, width if self._steerable else None)
        lines += [trouble[:width] for trouble in _troubles(replicas, lost_names)]
        if not self._steerable:
            print(time.strftime("%H:%M:%S"), *lines, "", sep="\n", flush=True)
            return
        shown = [self._painted(number, line) for number, line in enumerate(lines[: height - 1])]
        ends = "".join(f"{line}{_END_OF_LINE}\n" for line in shown)
        print(f"{_HOME}{ends}{_END_OF_SCREEN}", end="", flush=True)

    def _painted(self, number: int, line: str) -> str:
        if not self._coloured:
            return line
        if number == 0:
            return f"{_BOLD}{line}{_PLAIN}"
        return f"{_RED}{line}{_PLAIN}" if " gone " in f"{line} " else line


@contextmanager
def _screen() -> Iterator[_Screen]:
    """The terminal, which is given back as it was, however the command ends."""
    steerable = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    if not steerable:
        yield _Screen(steerable)
        return

    def ended(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, ended)
    print(_ENTER, end="", flush=True)
    try:
        yield _Screen(steerable)
    finally:
        print(_LEAVE, end="", flush=True)
        signal.signal(signal.SIGTERM, before)
