"""Memory for batches, used again when nobody has the batch any more.

The pages of a fresh array are cleared and mapped one by one as they are touched, and taken back
when it goes: for a batch of some hundred KiB that costs more than to fill it.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PAGE_BYTES = 4096
_KEPT_BYTES = 2**24
"""As much as a client fetches at a time, by default."""


class Memory:
    """Pieces of about one size. Thread-safe."""

    def __init__(self) -> None:
        # Its methods are atomic: pieces come back in whatever thread the last view of them ends,
        # in the middle of whatever that does, where no lock may be waited for.
        self._free: deque[NDArray[np.uint8]] = deque()
        self._size = 0
        self._most = 0

    def take(self, size: int) -> memoryview:
        """`size` bytes that may be written to. They are the taker's as long as anything views them:
        the memoryview, an array of it, or an array of that."""
        # Messages differ by some bytes.
        needed = -(-size // _PAGE_BYTES) * _PAGE_BYTES
        if needed != self._size:
            self._size, self._most = needed, _KEPT_BYTES // max(1, needed)
            self._free.clear()
        try:
            piece = self._free.pop()
        except IndexError:
            piece = np.empty(needed, np.uint8)
        if len(piece) != needed:  # it came back between the lines above
            piece = np.empty(needed, np.uint8)
        lent = piece.view(_Lent)
        lent.owner = self
        return lent.data[:size]

    def give_back(self, piece: NDArray[np.uint8]) -> None:
        """Keeps a piece that nobody views, if it can be of use."""
        if len(piece) == self._size and len(self._free) < self._most:
            self._free.append(piece)

    def close(self) -> None:
        """Keeps nothing until somebody takes a piece again."""
        self._size = self._most = 0
        self._free.clear()


class _Lent(np.ndarray[Any, np.dtype[np.uint8]]):
    """A piece, which goes back when this and all views of it are gone."""

    owner: Memory | None = None

    def __del__(self) -> None:
        if self.owner is not None and isinstance(self.base, np.ndarray):
            self.owner.give_back(self.base)
