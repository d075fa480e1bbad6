"""Batches, by the kernel where numba is installed and by numpy where it is not."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec

import numpy as np

from metalm_proto.batch import Batch, Pair, digest_of
from metalm_proto.spec import BatchRequest, Spec, Split
from metalm_service.core import cost, reference

Fill = Callable[[Spec, int, Split, int, Pair], None]


@lru_cache(maxsize=1)
def engine_name() -> str:
    """What generates here: "numba" or "numpy"; the bytes are the same."""
    return "numba" if find_spec("numba") else "numpy"


def warm() -> None:
    """Makes the engine ready, so that the first request does not wait for the compiler."""
    if engine_name() == "numba":
        from metalm_service.core import kernel

        kernel.warm()


def generate(spec: Spec, seed: int, split: Split, first: int, out: Pair) -> None:
    """Fills `out` with x and y of the samples first .. first + B - 1."""
    _fill()(spec, seed, split, first, out)


def make_batch(
    request: BatchRequest,
    first: int,
    size: int,
    proceed: Callable[[], None] = lambda: None,
    room: Pair | None = None,
) -> Batch:
    """The samples [first, first + size) of the request's stream.

    `proceed` is called every few million tokens; what it raises ends the work. `room`: where x and
    y are to be made, if it matters.
    """
    spec, seed, split = request.spec, request.seed, request.split
    x, y = np.empty((2, size, spec.L), spec.dtype) if room is None else room
    rows = max(1, cost.TOKENS_AT_A_TIME[engine_name()] // spec.L)
    for row in range(0, size, rows):
        proceed()
        generate(spec, seed, split, first + row, (x[row : row + rows], y[row : row + rows]))
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


def cost_of(request: BatchRequest) -> cost.Cost:
    """What a request will cost here."""
    return cost.cost_of(request, engine_name())


@lru_cache(maxsize=1)
def _fill() -> Fill:
    if engine_name() == "numba":
        from metalm_service.core import kernel

        return kernel.generate
    return _fill_with_numpy


def _fill_with_numpy(spec: Spec, seed: int, split: Split, first: int, out: Pair) -> None:
    for row, (x, y) in enumerate(zip(*out, strict=True)):
        x[:], y[:] = reference.sample(spec, seed, split, first + row)
