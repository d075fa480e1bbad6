"""What a process that was forked must know of the one that it was forked from."""

from __future__ import annotations

import os
import weakref
from functools import lru_cache

_of_parent: weakref.WeakSet[object] = weakref.WeakSet()
_kept: list[object] = []


def keep_in_children(thing: object) -> None:
    """Has every process that is forked from this one keep the thing, if it is still there then: to
    destroy the connections of the parent could end them there."""
    _keep_after_forks()
    _of_parent.add(thing)


@lru_cache(maxsize=1)
def _keep_after_forks() -> None:
    os.register_at_fork(after_in_child=_keep)


def _keep() -> None:
    _kept.extend(_of_parent)
