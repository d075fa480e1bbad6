"""What a process that was forked must know of the one that it was forked from."""

from __future__ import annotations

_kept: list[object] = []


def keep(inherited: object) -> None:
    """Keeps what belongs to the parent: to destroy its connections here could end them there."""
    _kept.append(inherited)
