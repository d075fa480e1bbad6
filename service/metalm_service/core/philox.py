"""The random words of `metalm-1`: Philox4x32-10, in numpy.

Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011,
doi:10.1145/2063384.2063405.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
_MASK = np.uint64(2**32 - 1)
_32 = np.uint64(32)


class Purpose(IntEnum):
    """What a word is for; part of the counter."""

    LENGTH = 0
    TOKEN = 1
    ORDER = 2
    NOISE = 3


def philox4x32(counter: NDArray[np.uint64], key: tuple[int, int]) -> Words:
    """Ten rounds of Philox. `counter`: [4, ...] of values below 2^32; returns uint32 [4, ...]."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        p0, p1 = c0 * np.uint64(MULTIPLIERS[0]), c2 * np.uint64(MULTIPLIERS[1])
        c0, c1 = (p1 >> _32) ^ c1 ^ np.uint64(k0), p1 & _MASK
        c2, c3 = (p0 >> _32) ^ c3 ^ np.uint64(k1), p0 & _MASK
        k0, k1 = (k0 + KEY_STEPS[0]) % 2**32, (k1 + KEY_STEPS[1]) % 2**32
    return np.stack([c0, c1, c2, c3]).astype(np.uint32)


def tag(purpose: Purpose, split: int, element: int = 0) -> int:
    return purpose | split << 4 | element << 8


def words(tag: int, count: int, *, seed: int, index: int) -> Words:
    """word(tag, p) for p = 0 .. count-1: uint32 [count].

    With q = p div 64 and r = p mod 64, word p is lane r div 16 of block 16q + r mod 16: sixteen
    blocks fill 64 words lane by lane, which is what vector instructions do best.
    """
    groups = -(-count // 64)
    blocks = np.arange(16 * groups, dtype=np.uint64).reshape(groups, 16)
    lanes = _lanes(blocks, tag, seed, index)  # [4, groups, 16]
    return lanes.transpose(1, 0, 2).reshape(-1)[:count]


def words_at(tag: int | NDArray[Any], positions: NDArray[Any], *, seed: int, index: int) -> Words:
    """word(tag, p) for each of the positions p: uint32, of the positions' shape.

    `tag`: one for all, or one for each position.
    """
    q, r = np.divmod(positions.astype(np.uint64), np.uint64(64))
    lane, block = np.divmod(r, np.uint64(16))
    lanes = _lanes(np.uint64(16) * q + block, tag, seed, index)
    chosen: Words = np.take_along_axis(lanes, lane[np.newaxis].astype(np.intp), axis=0)[0]
    return chosen


def _lanes(blocks: NDArray[np.uint64], tag: int | NDArray[Any], seed: int, index: int) -> Words:
    counter = np.empty((4, *blocks.shape), np.uint64)
    counter[0], counter[1] = blocks, tag
    counter[2], counter[3] = index % 2**32, index // 2**32
    return philox4x32(counter, (seed % 2**32, seed // 2**32))
