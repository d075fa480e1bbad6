"""Samples to files: whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from metalm_proto import formats
from metalm_proto.batch import Batch

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

    The arrays grow on disk, so that their size is not bounded by memory.
    """
    with tempfile.TemporaryDirectory(prefix="metalm-") as directory:
        paths = {name: Path(directory, f"{name}.npy") for name in ("x", "y")}
        arrays: dict[str, np.memmap] = {}
        metadata = ""
        row = 0
        for batch in batches:
            if not arrays:
                metadata = json.dumps(formats.header(batch))
                shape = (samples, batch.spec.L)
                arrays = {
                    name: np.lib.format.open_memmap(path, "w+", batch.spec.dtype, shape)
                    for name, path in paths.items()
                }
            arrays["x"][row : row + len(batch)] = batch.x
            arrays["y"][row : row + len(batch)] = batch.y
            row += len(batch)
        for array in arrays.values():
            array.flush()
        np.save(Path(directory, "metadata.npy"), np.array(metadata))
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            for path in (*paths.values(), Path(directory, "metadata.npy")):
                # A fixed time, so that the same samples make the same file.
                entry = zipfile.ZipInfo(path.name, (1980, 1, 1, 0, 0, 0))
                with (
                    path.open("rb") as source,
                    archive.open(entry, "w", force_zip64=True) as target,
                ):
                    shutil.copyfileobj(source, target, 2**20)


WRITERS: dict[str, Writer] = {"text": _write_text, "npz": _write_npz}


def _with_progress(batches: Iterable[Batch], samples: int, shown: bool) -> Iterator[Batch]:
    with tqdm(total=samples, unit=" samples", file=sys.stderr, disable=not shown) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))


@contextmanager
def _opened(output: str | None) -> Iterator[BinaryIO]:
    if output is None or output == "-":
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
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(descriptor)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
