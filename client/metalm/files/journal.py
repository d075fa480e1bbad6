"""What a run writes down as it goes, so that another process can go on with it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from metalm.files.disk import TEMPORARY, keep, naming
from metalm.files.manifest import (
    MANIFEST,
    Run,
    Shard,
    parse_object,
    read_manifest,
    run_of,
    shard_of,
)
from metalm_proto.errors import InvalidArgument

JOURNAL = ".metalm-run"
"""A line of JSON that says which run it is, then one for each finished shard. It is there until the
manifest is."""


class Journal:
    """The run in a directory, in the hands of this process."""

    def __init__(self, stream: BinaryIO, directory: Path, shards: dict[str, Shard]) -> None:
        self._stream = stream
        self._directory = directory
        self.shards = shards
        """The finished ones by name. What has become of their files is for the caller to see."""

    def append(self, shard: Shard) -> None:
        """Writes to the disk that a shard is there."""
        _write_line(self._stream, asdict(shard))
        self.shards[shard.file] = shard

    def remove(self) -> None:
        (self._directory / JOURNAL).unlink()
        keep(self._directory)


def recorded(directory: Path) -> Run | None:
    """The run that a directory holds, finished or not. Raises InvalidArgument, OSError."""
    if (directory / MANIFEST).exists():
        return read_manifest(directory / MANIFEST)[0]
    try:
        with naming(directory), open(directory / JOURNAL, "rb") as stream:
            line = stream.readline()
    except FileNotFoundError:
        return None
    return run_of(parse_object(line)) if line.endswith(b"\n") else None


@contextmanager
def claimed(run: Run, directory: Path) -> Iterator[Journal]:
    """The journal of the run in a directory, which is made if it is not there.

    What a process that was killed has left unfinished is removed. Raises InvalidArgument, and
    changes nothing, if the directory holds another run or anything else; OSError if another process
    writes there.
    """
    directory.mkdir(exist_ok=True)
    shards = {}
    if (directory / MANIFEST).exists():
        found, listed = read_manifest(directory / MANIFEST)
        run.check_same(found, str(directory))
        shards = {shard.file: shard for shard in listed}
    elif not (directory / JOURNAL).exists():
        others = [name for name in os.listdir(directory) if not name.startswith(TEMPORARY)]
        if others:
            bound = f"an empty directory, or one that holds this run; it has {min(others)}"
            raise InvalidArgument("output", str(directory), bound)
    with _locked(directory / JOURNAL) as stream:
        shards |= _resumed(stream, run, directory)
        for name in os.listdir(directory):
            if name.startswith(TEMPORARY):
                (directory / name).unlink()
        yield Journal(stream, directory, shards)


def _resumed(stream: BinaryIO, run: Run, directory: Path) -> dict[str, Shard]:
    """The shards in the journal, up to a line that was not finished."""
    stream.seek(0)
    head = stream.readline()
    if not head.endswith(b"\n"):
        stream.truncate(0)
        _write_line(stream, run.head())
        keep(directory)
        return {}
    run.check_same(run_of(parse_object(head)), str(directory))
    shards = {}
    place = stream.tell()
    while (line := stream.readline()).endswith(b"\n"):
        shard = shard_of(parse_object(line))
        shards[shard.file] = shard
        place = stream.tell()
    stream.truncate(place)
    return shards


def _write_line(stream: BinaryIO, fields: dict[str, Any]) -> None:
    stream.write(json.dumps(fields).encode() + b"\n")
    stream.flush()
    os.fsync(stream.fileno())


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    with open(path, "a+b") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(error.errno, "another process writes there") from error
        except OSError as error:
            # A file system without locks: who runs the command twice at a time is not warned.
            if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK):
                raise
        if not path.exists() or not os.path.samestat(os.fstat(stream.fileno()), path.stat()):
            raise OSError(errno.EAGAIN, "another process has just finished there")
        yield stream
