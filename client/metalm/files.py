"""Samples to files: whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, BinaryIO

import numpy as np
import xxhash
from tqdm import tqdm

from metalm_proto import formats
from metalm_proto.batch import Batch
from metalm_proto.errors import InvalidArgument

Writer = Callable[[Iterable[Batch], int, BinaryIO], None]


def write(batches: Iterable[Batch], samples: int, output: str | None, form: str) -> None:
    """Writes the batches, `samples` samples in all, to the file `output`, or to standard output
    for None and "-".

    A file appears under its name when it is complete; until then, and if anything goes wrong, what
    was there before stays. On a terminal a progress bar is shown. Raises OSError.
    """
    try:
        with _opened(output) as stream:
            to_terminal = stream.isatty()
            if to_terminal and form == "npz":
                raise InvalidArgument("output", output or "-", "a file or a pipe for npz")
            counted = _with_progress(batches, samples, sys.stderr.isatty() and not to_terminal)
            WRITERS[form](counted, samples, stream)
            stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        target = "standard output" if output in (None, "-") else output
        raise OSError(error.errno, f"cannot write {target}: {error.strerror}") from error


def _write_text(batches: Iterable[Batch], samples: int, stream: BinaryIO) -> None:
    for batch in batches:
        stream.write(formats.to_text(batch).encode())


def _write_npz(batches: Iterable[Batch], samples: int, stream: BinaryIO) -> None:
    """`x` and `y`, [samples, L], and `metadata`, JSON that says which samples these are.

    x goes straight to its place while y waits on the disk: the size is not bounded by memory.
    """
    digest = xxhash.xxh3_64()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive, TemporaryFile() as waiting:
        with _entry(archive, "x") as target:
            for number, batch in enumerate(batches):
                if number == 0:
                    metadata = formats.header(batch)
                    shape = (samples, batch.spec.L)
                    _write_header(target, batch.spec.dtype, shape)
                target.write(batch.x.data)
                digest.update(batch.x.data.cast("B"))
                waiting.write(batch.y.data)
        with _entry(archive, "y") as target:
            _write_header(target, batch.spec.dtype, shape)
            waiting.seek(0)
            while piece := waiting.read(2**20):
                target.write(piece)
                digest.update(piece)
        with _entry(archive, "metadata") as target:
            metadata |= {"samples": samples, "digest": digest.hexdigest()}
            np.save(target, np.array(json.dumps(metadata)))


def _write_header(target: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    description = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(target, description)


def _entry(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """A file in the archive; with a fixed time, so that the same samples make the same bytes."""
    return archive.open(
        zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), "w", force_zip64=True
    )


WRITERS: dict[str, Writer] = {"text": _write_text, "npz": _write_npz}


def _with_progress(batches: Iterable[Batch], samples: int, shown: bool) -> Iterator[Batch]:
    with tqdm(total=samples, unit=" samples", file=sys.stderr, disable=not shown) as bar:
        for batch in batches:
            yield batch
            bar.update(batch.size)


@contextmanager
def _opened(output: str | None) -> Iterator[BinaryIO]:
    if output is None or output == "-":
        if sys.stdout is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        yield sys.stdout.buffer
    elif _is_special(output):
        with open(output, "wb") as stream:
            yield stream
    else:
        with _replacing(Path(output)) as stream:
            yield stream


def _is_special(output: str) -> bool:
    """Whether it is a pipe, a terminal or another thing that cannot be replaced."""
    try:
        return not stat.S_ISREG(os.stat(output).st_mode)
    except FileNotFoundError:
        return False


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A stream to a file beside `path`, which takes its place when all is written to the disk."""
    path = Path(os.path.realpath(path))  # a link stays a link
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        os.umask(umask := os.umask(0))
        mode = 0o666 & ~umask
    descriptor, name = tempfile.mkstemp(prefix=".metalm-", dir=path.parent)
    try:
        with open(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(descriptor)
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
