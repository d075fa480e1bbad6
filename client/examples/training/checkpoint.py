"""A checkpoint on the disk: whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def save(state: Mapping[str, Any], path: Path) -> None:
    """Replaces the file at once, so that one that is there can always be loaded."""
    unfinished = path.with_suffix(".tmp")
    with open(unfinished, "wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.replace(path)


def load(path: Path) -> dict[str, Any] | None:
    """The state that was saved, on the CPU; None where there is none yet."""
    if not path.exists():
        return None
    # Nothing but tensors and plain types: it may come from anywhere.
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
