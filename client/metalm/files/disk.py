"""Files on the disk: whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".metalm-tmp-"
"""What the names of unfinished files begin with."""


@contextmanager
def opened(output: str | None) -> Iterator[BinaryIO]:
    """A stream to the file `output`, or to standard output for None and "-".

    A file appears under its name when it is complete; until then, and if anything goes wrong, what
    was there before stays. Raises OSError.
    """
    if output is None or output == "-":
        if sys.stdout is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        yield sys.stdout.buffer
    elif is_special(output):
        with open(output, "wb") as stream:
            yield stream
    else:
        with replacing(Path(output)) as stream:
            yield stream


def is_special(output: str) -> bool:
    """Whether it is a pipe, a terminal or another thing that cannot be replaced."""
    try:
        return not stat.S_ISREG(os.stat(output).st_mode)
    except FileNotFoundError:
        return False


@contextmanager
def replacing(path: Path) -> Iterator[BufferedRandom]:
    """A stream to a file beside `path`, which takes its place when all is written to the disk."""
    path = Path(os.path.realpath(path))  # a link stays a link
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        mode = None
    name = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        # The umask is applied by the system: to ask for it is to change it for all threads.
        descriptor = os.open(name, flags, 0o666 if mode is None else 0o600)
        with open(descriptor, "w+b") as stream:
            yield stream
            stream.flush()
            os.fsync(descriptor)
        if mode is not None:
            os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        with suppress(FileNotFoundError):  # it has another name by now, or never was
            os.unlink(name)
        raise
    keep(path.parent)


def keep(directory: Path) -> None:
    """Writes the names in a directory to the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def naming(target: object) -> Iterator[None]:
    """Says in an OSError what it was that could not be written."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        why = error.strerror or error
        raise OSError(error.errno, f"cannot write {target}: {why}") from error
