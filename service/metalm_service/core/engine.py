"""Batches, by the kernel where numba is installed and by numpy where it is not."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec

import numpy as np

from metalm_proto.batch import Batch, Tokens, digest_of
from metalm_proto.spec import BatchRequest, Spec, Split
from metalm_service.core import reference
from metalm_service.core.poisson import length_table

Fill = Callable[[Spec, int, Split, int, Tokens], None]

_TOKENS_AT_A_TIME = 2**22
"""Tokens between two looks at whether the caller is still there; some 10 ms of the kernel."""


@lru_cache(maxsize=1)
def engine_name() -> str:
    """What generates here: "numba" or "numpy"; the bytes are the same."""
    return "numba" if find_spec("numba") else "numpy"


def warm() -> None:
    """Makes the engine ready, so that the first request does not wait for the compiler."""
    if engine_name() == "numba":
        from metalm_service.core import kernel

        kernel.warm()


def generate(spec: Spec, seed: int, split: Split, first: int, out: Tokens) -> None:
    """Fills `out`, [2, B, L] of spec.dtype, with x and y of the samples first .. first + B - 1."""
    _fill()(spec, seed, split, first, out)


def make_batch(
    request: BatchRequest, first: int, size: int, proceed: Callable[[], None] = lambda: None
) -> Batch:
    """The samples [first, first + size) of the request's stream.

    `proceed` is called every few million tokens; what it raises ends the work.
    """
    spec, seed, split = request.spec, request.seed, request.split
    # One buffer for x and y: the kernel writes it once, and nobody copies it again.
    tokens = np.empty((2, size, spec.L), spec.dtype)
    rows = max(1, _TOKENS_AT_A_TIME // spec.L)
    for row in range(0, size, rows):
        proceed()
        generate(spec, seed, split, first + row, tokens[:, row : row + rows])
    x, y = tokens
    return Batch(
        spec=spec,
        seed=seed,
        split=split,
        first=first,
        x=x,
        y=y,
        digest=digest_of(x, y),
        provenance=reference.provenance(spec, seed, split, first, size, proceed)
        if request.provenance
        else None,
        generator=request.generator,
    )


def batch_bytes(request: BatchRequest) -> int:
    """Bytes of arrays in the largest batch of a request; an upper bound with provenance."""
    spec, size = request.spec, request.largest_batch
    total = 2 * size * spec.L * spec.dtype.itemsize
    if request.provenance:
        languages = size if spec.language is None else 1
        # Short samples cost more than their bytes.
        total += size * max(spec.L * (4 + 4 + 4 + 1), 4096)
        total += languages * spec.n * (4 + length_table(spec.l).maximum * spec.dtype.itemsize)
    return total


@lru_cache(maxsize=1)
def _fill() -> Fill:
    if engine_name() == "numba":
        from metalm_service.core import kernel

        return kernel.generate
    return _fill_with_numpy


def _fill_with_numpy(spec: Spec, seed: int, split: Split, first: int, out: Tokens) -> None:
    for row in range(out.shape[1]):
        out[0, row], out[1, row] = reference.sample(spec, seed, split, first + row)
