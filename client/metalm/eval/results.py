"""Files of predictions: npz, as `numpy.savez` and `numpy.savez_compressed` write it.

`log_probs`: floats [N, L], the log-probabilities of the targets in nats, or `logits`, floats
[N, L, V + 2]. `spec`: JSON of the spec's fields (`json.dumps(spec.as_dict())`; fields that are left
out have their defaults). `seed`, `first`: integers, the stream and the index of the first sample
(0 if absent). `split`: text ("test" if absent). `label`: text, the model's name (may be absent).
"""

from __future__ import annotations

import json
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from metalm.eval.evaluator import Evaluator
from metalm.eval.presets import Preset
from metalm_proto.errors import InvalidArgument
from metalm_proto.spec import FIRST, SPEC_FIELDS, Spec, Split

_ARRAYS = ("log_probs", "logits")
_BYTES_AT_A_TIME = 2**26
_MOST_TEXT = 2**20
"""Bytes of a spec or a label: a few kilobytes of a file may stand for gigabytes of them."""

# What damage, a compression or a cipher that there is not, or JSON of great depth become.
_UNREADABLE = (
    KeyError,
    ValueError,
    TypeError,
    EOFError,
    OSError,
    RuntimeError,
    tokenize.TokenError,  # numpy's, of a header that is none
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stream:
    """What a file says of its samples; None where it says nothing."""

    spec: Spec | None
    seed: int | None
    split: str | None
    first: int | None
    label: str | None


def evaluator_of(
    path: str | Path, preset: Preset | None = None, label: str | None = None
) -> Evaluator:
    """An evaluator that has taken what is in a file, some rows at a time.

    With a `preset` the file needs to name no samples, and they are those of the preset; what it
    names must be the same. `label` goes before the file's own. Raises InvalidArgument for a file
    that cannot be read, and for what `Evaluator.update` refuses.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise InvalidArgument("results", str(path), f"an npz file ({error})") from error
    with archive:
        try:
            stream = _stream(archive)
            evaluator, first = _begun(stream, preset, label)
            for row, values in _rows(archive):
                evaluator.update(first + row, values)
        except _UNREADABLE as error:
            bound = f"an npz file of predictions ({type(error).__name__}: {error})"
            raise InvalidArgument("results", str(path), bound) from error
    if preset is not None and (found := evaluator.samples) != preset.evaluation_set.samples:
        bound = f"the {preset.evaluation_set.samples} of the preset {preset.name}"
        raise InvalidArgument("samples", found, bound)
    return evaluator


def _begun(stream: _Stream, preset: Preset | None, label: str | None) -> tuple[Evaluator, int]:
    spec, seed, split, first = stream.spec, stream.seed, stream.split, stream.first
    if preset is not None:
        chosen = preset.evaluation_set
        right = {
            "spec": chosen.spec,
            "seed": chosen.seed,
            "split": str(chosen.split),
            "first": chosen.ranges[0][0],
        }
        for name, value in right.items():
            if (told := getattr(stream, name)) not in (None, value):
                raise InvalidArgument(name, told, f"{value}, as of the preset {preset.name}")
        spec, seed, split, first = chosen.spec, chosen.seed, chosen.split, chosen.ranges[0][0]
    if spec is None or seed is None:
        name = "spec" if spec is None else "seed"
        raise InvalidArgument(name, None, "in the file, or that of a preset: which samples are it?")
    evaluator = Evaluator(spec, seed, split or Split.TEST, label=label or stream.label)
    return evaluator, FIRST.check(first or 0)


def _stream(archive: zipfile.ZipFile) -> _Stream:
    told = {name: _scalar(archive, name) for name in ("spec", "seed", "split", "first", "label")}
    spec = None if told["spec"] is None else _spec(told["spec"])
    return _Stream(
        spec=spec,
        seed=told["seed"],
        split=told["split"],
        first=told["first"],
        label=told["label"],
    )


def _spec(text: Any) -> Spec:
    names = [field.name for field in SPEC_FIELDS]
    fields = json.loads(text)
    if not isinstance(fields, dict) or set(fields) - set(names):
        raise InvalidArgument("spec", fields, f"an object of {', '.join(names)}")
    return Spec(**fields)


def _scalar(archive: zipfile.ZipFile, name: str) -> Any:
    """The one value of an array, None if there is no such array."""
    if f"{name}.npy" not in archive.namelist():
        return None
    with archive.open(f"{name}.npy") as member:
        shape, _, dtype = _described(member)
        if int(np.prod(shape)) != 1 or dtype.hasobject or dtype.itemsize > _MOST_TEXT:
            raise InvalidArgument(name, f"{dtype} of shape {shape}", "a single value or text")
        return np.frombuffer(member.read(dtype.itemsize), dtype)[0].item()


def _rows(archive: zipfile.ZipFile) -> Iterator[tuple[int, NDArray[Any]]]:
    """Rows of the predictions, each piece with the number of its first."""
    found = [name for name in _ARRAYS if f"{name}.npy" in archive.namelist()]
    if len(found) != 1:
        raise InvalidArgument("results", archive.namelist(), f"with one of {', '.join(_ARRAYS)}")
    with archive.open(f"{found[0]}.npy") as member:
        shape, dtype = _header(member, found[0])
        size = int(np.prod(shape[1:])) * dtype.itemsize
        rows = max(1, _BYTES_AT_A_TIME // max(1, size))
        for row in range(0, shape[0], rows):
            count = min(rows, shape[0] - row)
            piece = member.read(count * size)
            yield row, np.frombuffer(piece, dtype).reshape(count, *shape[1:])


def _described(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is in Fortran order, and type: what stands before an array."""
    version = np.lib.format.read_magic(member)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = read(member)
    return shape, fortran, dtype


def _header(member: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    shape, fortran, dtype = _described(member)
    if fortran or dtype.kind != "f" or len(shape) != {"log_probs": 2, "logits": 3}[name]:
        order = "Fortran" if fortran else "C"
        bound = "floats [N, L], or [N, L, V + 2] for logits, in C order"
        raise InvalidArgument(name, f"{dtype} of shape {shape} in {order} order", bound)
    return shape, dtype
