"""Functions compiled by numba, and kept on disk where that is possible."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba

# The stubs know no options that begin with an underscore.
inlined = numba.njit(nogil=True, error_model="numpy", forceinline=True, _nrt=False)  # type: ignore[call-overload]
"""A part of a kernel that allocates nothing. Without _nrt=False (no run-time for references) each
call counts the references to its arrays up and down, which is dearer than all else in it."""


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as a kernel that releases the interpreter's lock.

    It is compiled at its first call with arguments of new types, or loaded from the cache.
    """
    config: Any = numba.config
    before = config.CACHE_DIR
    try:
        config.CACHE_DIR = _cache_in_use(before)
        kernel = numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # numba found no place to write to: a locked container
        kernel = numba.njit(nogil=True, error_model="numpy")(function)
    finally:
        config.CACHE_DIR = before
    return kernel


def usable_cache(directory: str) -> str:
    """The cache directory, or a private copy of it if it may only be read.

    numba uses no cache that it could not write to.
    """
    if not directory or not Path(directory).is_dir() or os.access(directory, os.W_OK):
        return directory
    # A container without a writable /tmp still has shared memory.
    for parent in (None, "/dev/shm"):  # noqa: S108 - the name is drawn, the mode private
        try:
            copy = tempfile.mkdtemp(prefix="metalm-kernels-", dir=parent)
            atexit.register(shutil.rmtree, copy, ignore_errors=True)
            return shutil.copytree(directory, copy, dirs_exist_ok=True)
        except OSError:
            continue
    return directory


def cache_in_use() -> str:
    """The cache directory of this process's kernels, for others to use; empty if it is numba's own
    choice."""
    config: Any = numba.config  # makes its attributes as it is imported
    return _cache_in_use(str(config.CACHE_DIR))


@cache
def _cache_in_use(directory: str) -> str:
    """One for all kernels of the process."""
    return usable_cache(directory)
