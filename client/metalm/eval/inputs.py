"""What a model says of the targets, as losses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metalm_proto.batch import Tokens
from metalm_proto.errors import InvalidArgument
from metalm_proto.spec import Spec

TOLERANCE = 1e-5
"""So far above 0 may a log-probability be rounded."""

_NUMBERS_AT_A_TIME = 2**22

Losses = NDArray[np.floating[Any]]


def samples_in(values: Any) -> int:
    """B. Raises InvalidArgument for what has no shape."""
    shape = tuple(getattr(values, "shape", ()))
    if not shape:
        raise InvalidArgument("values", type(values).__name__, "an array of samples")
    return int(shape[0])


def losses_of(values: Any, targets: Tokens, spec: Spec, first: int) -> Losses:
    """-ln p of the targets [B, L], in nats: float64 for float64 values, else float32.

    `values`: log-probabilities of the targets in nats [B, L], or logits [B, L, V + 2] of any
    scale, numpy or torch, on any device, floats of any size. Logits are normalised over all V + 2
    ids, in float64 from numpy (the sum; the terms in float32 unless they are float64), in float32
    on the device from torch, a few rows at a time.

    Raises InvalidArgument for another shape, for values that are no floats, and for a
    log-probability that is NaN, infinite or above 0; it names the sample, which is `first` and
    those behind it, and the position.
    """
    shape = tuple(int(size) for size in getattr(values, "shape", ()))
    logits = (*targets.shape, spec.vocabulary)
    if shape not in (targets.shape, logits):
        bound = f"log-probabilities of shape {targets.shape}, or logits of shape {logits}"
        raise InvalidArgument("values", f"of shape {shape}", bound)
    _check_floats(values)
    if shape == targets.shape:
        found = -_array(values)
    elif hasattr(values, "detach"):
        found = _from_torch_logits(values.detach(), targets)
    else:
        found = _from_numpy_logits(np.asarray(values), targets)
    _check(found, first)
    losses: Losses = np.maximum(found, 0)
    return losses


def _check_floats(values: Any) -> None:
    dtype = values.dtype
    floats = getattr(dtype, "is_floating_point", None)  # torch's
    if floats is None:
        dtype = np.asarray(values).dtype
        floats = dtype.kind == "f" or dtype.name.startswith(("bfloat", "float"))
    if not floats:
        raise InvalidArgument("values", f"of type {dtype}", "floats")


def _array(values: Any) -> Losses:
    """As float64 if it is that, else as float32."""
    if hasattr(values, "detach"):
        # To the host first: not every device has float64.
        host = values.detach().cpu()
        found: Losses = (host if "float64" in str(host.dtype) else host.float()).numpy()
        return found
    array = np.asarray(values)
    return array if array.dtype == np.float64 else array.astype(np.float32)


def _check(losses: Losses, first: int) -> None:
    # A NaN fails every comparison.
    wrong = ~((losses >= -TOLERANCE) & (losses < np.inf))
    if wrong.any():
        row, position = np.unravel_index(int(wrong.argmax()), wrong.shape)
        place = f"sample {first + int(row)}, position {int(position)}"
        value = f"{-losses[row, position]} at {place}"
        raise InvalidArgument("log_probs", value, "finite and at most 0, in nats")


def _pieces(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Rows and positions of logits of that shape, so that a piece is small."""
    size, length, ids = shape
    positions = max(1, _NUMBERS_AT_A_TIME // ids)
    rows = max(1, positions // length)
    for row in range(0, size, rows):
        for position in range(0, length, positions):
            yield slice(row, row + rows), slice(position, position + positions)


def _from_numpy_logits(logits: NDArray[Any], targets: Tokens) -> Losses:
    losses = np.empty(targets.shape, np.float64 if logits.dtype == np.float64 else np.float32)
    for piece in _pieces(logits.shape):
        part = _array(logits[piece])
        chosen = np.take_along_axis(part, targets[piece][..., None].astype(np.int64), axis=-1)
        with np.errstate(invalid="ignore"):  # infinities, which the check names
            largest = part.max(-1, keepdims=True)
            total = np.exp(part - largest).sum(-1, dtype=np.float64)
            losses[piece] = np.log(total) - (chosen - largest)[..., 0]
    return losses


def _from_torch_logits(logits: Any, targets: Tokens) -> Losses:
    import torch  # whose tensors these are

    double = logits.dtype == torch.float64
    losses = np.empty(targets.shape, np.float64 if double else np.float32)
    for piece in _pieces(tuple(logits.shape)):
        part = logits[piece] if double else logits[piece].float()
        index = torch.from_numpy(targets[piece].astype(np.int64)).to(part.device)
        largest = part.amax(-1, keepdim=True)
        chosen = (part - largest).gather(-1, index[..., None])[..., 0]
        losses[piece] = ((part - largest).exp().sum(-1).log() - chosen).cpu().numpy()
    return losses
