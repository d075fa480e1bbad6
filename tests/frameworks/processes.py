"""JAX forbids forks in a process that has used it, and torch's workers are forked in this one."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def in_a_process(function: Callable[..., T], *arguments: object) -> T:
    """What the function, of a module's top, returns in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()
