from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import metalm_proto.spec
import metalm_service
from metalm_proto.batch import Tokens
from metalm_proto.spec import Profile, Spec, Split
from metalm_service.core import reference

pytest.importorskip("numba")

from metalm_service.core import compiling, kernel

GUARD = 77
DEFAULTS = Spec().as_dict()
VOCABULARIES = [2, 3, *range(252, 258), *range(65532, 65538), 2**31 - 3]
LENGTHS = [1, 2, 3, 4, 62, 63, 64, 65, 66, 126, 127, 128, 129, 4095, 4096, 4097]
U64 = st.sampled_from([0, 1, 2**32 - 1, 2**32, 2**64 - 1]) | st.integers(0, 2**64 - 1)


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    profile = draw(st.sampled_from(Profile))
    fewest = 2 if profile is Profile.METAGYM else 1
    counts = st.sampled_from([fewest, 3, 64, 65, 2**24 - 1]) | st.integers(fewest, 200)
    means = st.sampled_from([5e-324, 1e-9, 0.5, 3.0, 63.0, 2.0**20]) | st.floats(1e-3, 300)
    return Spec(
        V=draw(st.sampled_from(VOCABULARIES) | st.integers(2, 2**31 - 3)),
        n=draw(counts | st.integers(fewest, 2**24 - 1)),
        l=draw(means),
        e=draw(st.sampled_from([0.0, 5e-324, 2.0**-32, 0.1, 1 - 2.0**-53]) | st.floats(0, 0.999)),
        L=draw(st.sampled_from(LENGTHS) | st.integers(1, 3000)),
        mask_ratio=draw(st.sampled_from([0.0, 5e-324, 0.3, 1.0]) | st.floats(0, 1)),
        profile=profile,
        language=draw(st.none() | st.sampled_from([0, 2**64 - 1]) | st.integers(0, 2**64 - 1)),
    )


@settings(max_examples=250, deadline=None)
@given(
    spec=specs(),
    seed=U64,
    split=st.sampled_from(Split),
    size=st.integers(1, 5),
    first=U64,
)
def test_kernel_and_reference_give_the_same_bytes(
    spec: Spec, seed: int, split: Split, size: int, first: int
) -> None:
    compare(spec, seed, split, min(first, 2**64 - size), size)


@pytest.mark.parametrize(
    "spec",
    [
        Spec(L=10**6),
        Spec(L=10**5, V=65535, n=2**24 - 1, l=20),
        Spec(L=10**5, l=2**20, n=3),
        Spec(n=1, L=3000),
        Spec(n=1, l=5e-324, L=3000),
        Spec(n=2, L=3000, profile=Profile.METAGYM),
        Spec(e=0),
        Spec(mask_ratio=0),
        Spec(mask_ratio=1),
        Spec(V=2, e=1 - 2**-53, mask_ratio=0),
        Spec(V=2, profile=Profile.METAGYM),
        Spec(V=2**31 - 3, e=2**-32, mask_ratio=0, L=10**5),
        Spec(V=2**31 - 3, e=1 - 2**-53, mask_ratio=0),
        Spec(n=700, l=3, L=700 * 4),
        Spec(n=700, l=3, L=700 * 4 - 1),
        Spec(n=1000, l=3, L=1500, language=2**64 - 1),
    ],
    ids=lambda spec: repr({k: v for k, v in spec.as_dict().items() if v != DEFAULTS[k]}),
)
def test_kernel_and_reference_agree_at_the_edges(spec: Spec) -> None:
    compare(
        spec, seed=2**64 - 1, split=Split.TEST, first=2**64 - 3, size=3 if spec.L < 10**5 else 1
    )


@pytest.mark.parametrize("language", [None, 3])
def test_threads_do_not_disturb_each_other(language: int | None) -> None:
    jobs = [
        (Spec(V=V, n=n, l=8, L=5000, language=language), seed)
        for V, n in ((64, 5), (300, 2000), (70000, 50))
        for seed in range(8)
    ]

    def run(job: tuple[Spec, int]) -> bytes:
        spec, seed = job
        return by_kernel(spec, seed, Split.TRAIN, 0, 4).tobytes()

    alone = [run(job) for job in jobs]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(run, jobs * 3))
    assert together == alone * 3


def test_other_threads_run_while_the_kernel_does() -> None:
    # y holds no zero, so a thread that finds the first row written and the last one not has run
    # in the middle of a call: if the call kept the interpreter's lock, no thread ever could.
    spec = Spec(L=2**16)
    out = np.empty((2, 64, spec.L), spec.dtype)
    seen, finished = threading.Event(), threading.Event()

    def watch() -> None:
        while not finished.is_set():
            if out[1, 0, 0] and not out[1, -1, -1]:
                seen.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(200):
            out[1, -1, -1] = 0
            out[1, 0, 0] = 0
            kernel.generate(spec, 0, Split.TRAIN, 0, out)
            if seen.is_set():
                break
    finally:
        finished.set()
        watcher.join()
    assert seen.is_set()


def test_kernel_works_where_no_cache_can_be_kept(tmp_path: Path) -> None:
    # Every place that numba tries is below a regular file: that stops root, too.
    for package in (metalm_service, metalm_proto.spec):
        source = Path(str(package.__file__)).parent
        copytree(source, tmp_path / source.name, ignore=lambda *_: {"__pycache__"})
    (tmp_path / "metalm_service" / "core" / "__pycache__").touch()
    blocked = tmp_path / "file"
    blocked.touch()
    places = {name: str(blocked / "x") for name in ("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR")}
    program = (
        "import numpy as np\n"
        "from metalm_proto.spec import Spec, Split\n"
        "from metalm_service.core import kernel\n"
        "print(kernel.__file__)\n"
        "out = np.empty((2, 1, 12), np.uint8)\n"
        "kernel.generate(Spec(V=4, n=2, l=3, e=0.2, L=12), 0, Split.TRAIN, 0, out)\n"
        "print(out[0, 0].tolist(), type(kernel.compiled()._cache).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", program],
        env={**os.environ, **places, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    used, answer = done.stdout.splitlines()
    assert used == str(tmp_path / "metalm_service" / "core" / "kernel.py")
    assert answer == "[2, 2, 1, 5, 3, 2, 0, 2, 3, 3, 3, 5] NullCache"


def test_a_cache_that_may_only_be_read_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, private = tmp_path / "source", tmp_path / "private"
    for directory in (source, private):
        directory.mkdir()
    (source / "kernel.nbc").write_bytes(b"code")
    monkeypatch.setattr(tempfile, "tempdir", str(private))
    assert compiling.usable_cache(str(source)) == str(source)
    monkeypatch.setattr(os, "access", lambda *_: False)
    copy = Path(compiling.usable_cache(str(source)))
    assert copy.parent == private
    assert (copy / "kernel.nbc").read_bytes() == b"code"


def test_a_cache_that_cannot_be_copied_is_left_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> str:
        raise OSError("read-only")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert compiling.usable_cache(str(tmp_path)) == str(tmp_path)
    assert compiling.usable_cache("") == ""


def test_warming_leaves_nothing_to_compile() -> None:
    kernel.warm()
    compiled: Any = kernel.compiled()  # numba's dispatcher, which has no types
    signatures = list(compiled.signatures)
    for vocabulary in (2, 254, 255, 65534, 65535, 2**31 - 3):
        for language in (None, 1):
            spec = Spec(V=vocabulary, L=70, language=language)
            by_kernel(spec, 2**64 - 1, Split.TEST, 2**64 - 2, 2)
    assert compiled.signatures == signatures
    assert len(signatures) == 3


def compare(spec: Spec, seed: int, split: Split, first: int, size: int) -> None:
    found = by_kernel(spec, seed, split, first, size)
    for row in range(size):
        x, y = reference.sample(spec, seed, split, first + row)
        assert found[0, row].tobytes() == x.tobytes()
        assert found[1, row].tobytes() == y.tobytes()


def by_kernel(spec: Spec, seed: int, split: Split, first: int, size: int) -> Tokens:
    """The kernel's x and y, from a part of an array whose rest must stay as it was."""
    around = np.full((2, size + 2, spec.L), GUARD, spec.dtype)
    kernel.generate(spec, seed, split, first, around[:, 1:-1])
    assert np.all(around[:, 0] == GUARD)
    assert np.all(around[:, -1] == GUARD)
    return around[:, 1:-1]
