"""Files that are read anew when they have changed."""

from __future__ import annotations

import os


def version_of(file: str | os.PathLike[str]) -> tuple[int, int, int] | None:
    """What is another one when the file is; None where there is none."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
