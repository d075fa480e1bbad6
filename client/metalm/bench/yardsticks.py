"""What the generator is measured against: plain numpy, and a C program of the same contract."""

from __future__ import annotations

import ctypes
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metalm_proto.batch import Tokens
from metalm_proto.spec import Profile, Spec, Split

C_FLAGS = ("-std=c11", "-O3", "-march=native", "-shared", "-fPIC")
C_FLAGS_X86 = ("-mprefer-vector-width=512",)
"""gcc 12 takes 256 bits by default where it tunes for Intel, which is a quarter slower here; a
processor without 512 ignores it."""

_COMPILE_SECONDS = 120
_MINIMUM_LENGTH = 3


class PlainNumpyGenerator:
    """The same distribution as a research script would write it: one sample at a time.

    It follows the shape of MetaGym's generator (a list of elements, fresh noise arrays for every
    repetition, one concatenation a sample) but draws profile `metalm`, with numpy's `Generator`
    instead of the legacy global state. Its random bits are its own: it cannot be compared with
    the stream byte for byte.

    Raises ValueError for a spec of another profile or with a shared language.
    """

    def __init__(self, spec: Spec, seed: int) -> None:
        if spec.profile is not Profile.METALM or spec.language is not None:
            raise ValueError("the plain generator draws profile metalm, a language for each sample")
        self._spec = spec
        self._random = np.random.default_rng(seed)  # PCG64

    def sample(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """x and y of the next sample, each int32 [L]."""
        spec = self._spec
        elements = self._elements()
        separator = np.array([spec.separator_id], np.int32)
        features: list[NDArray[np.int32]] = []
        labels: list[NDArray[np.int32]] = []
        tokens = 0
        while tokens < spec.L + 1:
            element = elements[self._random.integers(spec.n)]
            features += [self._noisy(element), separator]
            labels += [element, separator]
            tokens += len(element) + 1
        return np.concatenate(features)[: spec.L], np.concatenate(labels)[1 : spec.L + 1]

    def batch(self, size: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """x and y of the next `size` samples, each int32 [size, L].

        The kinder of the two, and the one that ratios are taken against: MetaGym's batches go
        through Python lists, see `batch_through_lists`.
        """
        features, labels = zip(*(self.sample() for _ in range(size)), strict=True)
        return np.stack(features), np.stack(labels)

    def batch_through_lists(self, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The same as int64, each token having been a Python integer: as MetaGym makes batches."""
        features, labels = zip(*(self.sample() for _ in range(size)), strict=True)
        return (
            np.asarray([row.tolist() for row in features], np.int64),
            np.asarray([row.tolist() for row in labels], np.int64),
        )

    def _elements(self) -> list[NDArray[np.int32]]:
        spec = self._spec
        lengths = [max(_MINIMUM_LENGTH, int(self._random.poisson(spec.l))) for _ in range(spec.n)]
        return [
            self._random.integers(1, spec.V, length, np.int32, endpoint=True) for length in lengths
        ]

    def _noisy(self, element: NDArray[np.int32]) -> NDArray[np.int32]:
        """The element with fresh noise: int32 [len(element)]."""
        spec, size = self._spec, len(element)
        corrupted = self._random.random(size) < spec.e
        masked = self._random.random(size) < spec.mask_ratio
        # One of the V - 1 others: those from the token itself on move up by one.
        other = self._random.integers(1, spec.V, size, np.int32)
        other += other >= element
        noise = np.where(masked, np.int32(spec.mask_id), other)
        return np.where(corrupted, noise, element)


class CGenerator:
    """generator.c, compiled for this machine; the same bytes as the stream's own kernel.

    `compiler`: the command that made it, flags included. Made by `compile_c`.
    """

    def __init__(
        self, library: Path, compiler: str, directory: tempfile.TemporaryDirectory[str]
    ) -> None:
        # Not before it is asked for: a client of a service needs no generator.
        from metalm_service.core.noise import NoiseThresholds
        from metalm_service.core.poisson import length_table

        self._noise_thresholds = NoiseThresholds.of
        self._length_table = length_table
        self.compiler = compiler
        self._directory = directory  # holds the library as long as it may be called
        self._function = ctypes.CDLL(str(library)).metalm_generate
        u32, u64, size, pointer = (
            ctypes.c_uint32,
            ctypes.c_uint64,
            ctypes.c_size_t,
            ctypes.c_void_p,
        )
        self._function.restype = ctypes.c_int
        self._function.argtypes = [
            *(pointer, pointer, u64, u32, u64, size, size),  # x, y .. length
            *(u64, u64, u64, u32, size, pointer, size),  # n .. table_size
            *(u32, u32, u64, u32),  # keep_from .. other
        ]

    def generate(self, spec: Spec, seed: int, split: Split, first: int, out: Tokens) -> None:
        """Fills `out`, uint8 [2, B, L], with x and y of the samples first .. first + B - 1.

        Raises ValueError for what the C program leaves out (V > 254, a shared language) and for
        an `out` whose x or y is not one block of memory.
        """
        if spec.dtype != np.uint8 or spec.language is not None:
            raise ValueError("generator.c knows V <= 254 and a language for each sample only")
        x, y = out
        if out.dtype != np.uint8 or out.shape[2] != spec.L:
            raise ValueError(f"out must be uint8 [2, B, {spec.L}]")
        if not (x.flags.c_contiguous and y.flags.c_contiguous and out.flags.writeable):
            raise ValueError("x and y must be writable and contiguous")
        table = self._length_table(spec.l)
        noise = self._noise_thresholds(spec)
        failed = self._function(
            x.ctypes.data,
            y.ctypes.data,
            seed,
            split.code,
            first,
            *x.shape,
            spec.n,
            spec.usable_elements,
            spec.alphabet,
            spec.separator_id,
            table.zeros,
            table.values.ctypes.data,
            len(table.values),
            noise.clean,
            noise.mask,
            noise.ratio,
            spec.profile is Profile.METALM,
        )
        if failed:
            raise MemoryError("generator.c could not allocate a language")


def compile_c() -> CGenerator | None:
    """The C program, compiled by $CC, cc, gcc or clang; None where there is no compiler.

    Raises RuntimeError with the compiler's words if it fails.
    """
    compiler = _find_compiler()
    if compiler is None:
        return None
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    command = [*compiler, *C_FLAGS, *(C_FLAGS_X86 if is_x86 else ())]
    directory = tempfile.TemporaryDirectory(prefix="metalm-bench-")
    library = Path(directory.name, "generator.so")
    source = resources.files("metalm.bench") / "generator.c"
    try:
        with resources.as_file(source) as path:
            subprocess.run(  # noqa: S603 - the compiler that the user chose
                [*command, "-o", str(library), str(path)],
                check=True,
                capture_output=True,
                text=True,
                timeout=_COMPILE_SECONDS,
            )
        return CGenerator(library, shlex.join(command), directory)
    except subprocess.CalledProcessError as error:
        message = error.stderr.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        message = str(error)
    directory.cleanup()
    raise RuntimeError(f"could not compile generator.c with `{shlex.join(command)}`: {message}")


def _find_compiler() -> list[str] | None:
    """The command of the first compiler there is; $CC may hold arguments."""
    for candidate in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        command = shlex.split(candidate)
        if command and shutil.which(command[0]):
            return command
    return None
