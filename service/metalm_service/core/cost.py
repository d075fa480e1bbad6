"""What a request will cost, from the request alone: nothing of it is generated or allocated.

Seconds are upper bounds for a core of a server of 2020 or newer: `tests/core/test_cost.py` compares
them with what the dearest specs take.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from metalm_proto.spec import BatchRequest, Spec
from metalm_service.core.poisson import MINIMUM_LENGTH

TOKENS_AT_A_TIME = {"numba": 2**22, "numpy": 2**17}
"""Between two looks at whether the caller is still there: some 10 ms, some 50 ms."""

_MICRO, _NANO = 1e-6, 1e-9


@dataclass(frozen=True, slots=True)
class Cost:
    """`batch_bytes`: of arrays in the largest batch; exact, with provenance an upper bound.
    `scratch_bytes`: what is needed beside them while a batch is generated, an upper bound.
    `cpu_s`: seconds of a core for all batches, an upper bound.
    """

    samples: int
    tokens: int
    batch_bytes: int
    scratch_bytes: int
    cpu_s: float


def cost_of(request: BatchRequest, engine: str) -> Cost:
    """The cost of a request to the engine "numba" or "numpy"."""
    spec, size, samples = request.spec, request.largest_batch, request.samples
    itemsize = spec.dtype.itemsize
    batches = -(-samples // request.batch_size)
    batch_bytes = 2 * size * spec.L * itemsize
    scratch_bytes = _scratch_bytes(spec, size, engine)
    # The table of lengths is made once for each l.
    cpu_s = 3e-3 + 30 * _NANO * spec.l + batches * 200 * _MICRO + samples * _sample_s(spec, engine)
    if request.provenance:
        own = spec.language is None
        languages, all_languages = (size, samples) if own else (1, batches)
        batch_bytes += size * spec.L * (4 + 4 + 4 + 1)
        batch_bytes += languages * spec.n * (4 + longest_element(spec.l) * itemsize)
        scratch_bytes = max(scratch_bytes, _scratch_bytes(spec, size, "numpy"))
        scratch_bytes += spec.n * 8 + min(spec.n * longest_element(spec.l), 2**16) * 256
        # Python's own objects; more than the bytes where samples are short.
        scratch_bytes += size * 4096
        cpu_s += samples * _sample_s(spec, "numpy")
        cpu_s += all_languages * spec.n * (1 + 0.12 * max(spec.l, MINIMUM_LENGTH)) * _MICRO
    return Cost(samples, samples * spec.L, batch_bytes, scratch_bytes, cpu_s)


def longest_element(l: float) -> int:
    """No element is longer: above this, P(Poisson(l) > k) is below 2^-33.

    Bernstein's inequality, P(X >= l + x) <= exp(-x^2 / 2 (l + x / 3)), solved for 33 ln 2. (The
    table of lengths says it exactly, and takes up to 30 ms to make.)
    """
    nats = 33 * math.log(2)
    x = nats / 3 + math.sqrt((nats / 3) ** 2 + 2 * nats * l)
    return max(MINIMUM_LENGTH, math.ceil(l + x))


def is_spelled_out(spec: Spec, size: int) -> bool:
    """Whether the kernel writes a whole language down before it is spoken by `size` samples.

    Only if that is less than what they speak: however large n is, time and memory are bounded by
    their tokens.
    """
    spoken = spec.L * (1 if spec.language is None else size)
    return spec.n * (longest_element(spec.l) + 1) <= spoken


def _sample_s(spec: Spec, engine: str) -> float:
    if engine == "numba":
        return 0.5 * _MICRO + spec.L * (3 + 60 / (max(spec.l, MINIMUM_LENGTH) + 1)) * _NANO
    spoken = min(spec.n, spec.L // (MINIMUM_LENGTH + 1) + 1)
    return 1e-3 + spec.L * 0.5 * _MICRO + spoken * 100 * _MICRO


def _scratch_bytes(spec: Spec, size: int, engine: str) -> int:
    if engine == "numpy":
        return 2**14 + 80 * spec.L
    rows = min(size, max(1, TOKENS_AT_A_TIME["numba"] // spec.L))
    scratch = spec.L * spec.dtype.itemsize
    if is_spelled_out(spec, rows):
        scratch += spec.n * ((longest_element(spec.l) + 1) * spec.dtype.itemsize + 8)
    return scratch
