"""Files of every format, read as their users read them."""

from __future__ import annotations

import json
import os
import pty
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metalm import Batch, InvalidArgument, MetaLMClient, Spec
from metalm.files.base import batch_size_for
from metalm.files.single import write
from metalm_proto.spec import BatchRequest, Split
from tests.command import COMMAND, wait_until
from tests.forked import metalm, run
from tests.service_process import Service

FORMATS = ["text", "npz", "parquet", "arrow", "jsonl"]
BINARY = ["npz", "parquet", "arrow"]
Read = tuple[list[int] | None, Any, Any, Any]
"""Indices, x, y and metadata, as far as a format has them."""


def read_text(path: Path) -> Read:
    pairs = [
        [pair.split(",") for pair in line.split("\t")] for line in path.read_text().split("\n")[:-1]
    ]
    tokens = np.array(pairs, int)
    return None, tokens[..., 0], tokens[..., 1], None


def read_npz(path: Path) -> Read:
    archive = np.load(path)
    return None, archive["x"], archive["y"], json.loads(str(archive["metadata"]))


def read_table(table: Any) -> Read:
    x, y = (np.stack(table[name].to_numpy()) for name in ("x", "y"))
    return table["index"].to_pylist(), x, y, json.loads(table.schema.metadata[b"metalm"])


def read_parquet(path: Path) -> Read:
    return read_table(pq.read_table(path))


def read_arrow(path: Path) -> Read:
    with pa.memory_map(str(path)) as source:
        return read_table(pa.ipc.open_file(source).read_all())


def read_jsonl(path: Path) -> Read:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    x, y = (np.array([line[name] for line in lines]) for name in ("x", "y"))
    samples = {"first": lines[0]["index"], "samples": len(lines)}
    return [line["index"] for line in lines], x, y, lines[-1] | samples


READERS: dict[str, Callable[[Path], Read]] = {
    "text": read_text,
    "npz": read_npz,
    "parquet": read_parquet,
    "arrow": read_arrow,
    "jsonl": read_jsonl,
}


def request(spec: Spec, start: int, samples: int) -> BatchRequest:
    return BatchRequest(
        spec=spec, seed=5, split=Split.VALIDATION, start=start, stop=start + samples,
        batch_size=batch_size_for(spec),
    )  # fmt: skip


def twin(of: BatchRequest) -> Batch:
    """The same samples in memory."""
    return MetaLMClient().batch(
        of.start, spec=of.spec, seed=of.seed, split=of.split, batch_size=of.samples
    )


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("V", [8, 1000, 70_000])
@pytest.mark.parametrize("start", [0, 2**64 - 70])
def test_what_is_read_is_what_was_generated(tmp_path: Path, form: str, V: int, start: int) -> None:
    asked = request(Spec(V=V, n=3, l=4, L=20), start, 70)
    path = tmp_path / "file"
    write(MetaLMClient(), asked, str(path), form)
    index, x, y, metadata = READERS[form](path)
    batch = twin(asked)
    assert np.array_equal(x, batch.x)
    assert np.array_equal(y, batch.y)
    if form in BINARY:
        assert x.dtype == y.dtype == batch.spec.dtype
    if form not in ("text", "npz"):
        assert index == list(range(start, start + 70))
    if form != "text":
        assert metadata["spec"] == batch.spec.as_dict()
        assert (metadata["seed"], metadata["split"]) == (5, "validation")
        assert metadata["generator"] == "metalm-1"
        assert (metadata["first"], metadata["samples"]) == (start, 70)
        assert metadata["ids"] == {"mask": 0, "separator": V + 1, "vocabulary": V + 2}
    if form == "npz":
        assert metadata["digest"] == f"{batch.digest:016x}"


@pytest.mark.parametrize("form", FORMATS)
def test_a_request_has_one_file(service: Service, tmp_path: Path, form: str) -> None:
    """Twice, into a pipe, and from a service: the same bytes."""
    flags = ["generate", "-L", "40", "--samples", "5000", "--seed", "5", "--format", form]
    paths = [tmp_path / "a", tmp_path / "b"]
    run(*flags, "--output", str(paths[0]))
    run(*flags, "--output", str(paths[1]), "--url", service.http)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert run(*flags).stdout == paths[0].read_bytes()


@pytest.mark.parametrize("form", [name for name in FORMATS if name != "text"])
def test_the_name_says_the_format(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"file.{form}"
    run("generate", "-L", "5", "--samples", "3", "--seed", "5", "--output", str(path))
    assert READERS[form](path)[1].shape == (3, 5)


def test_columns_are_lists_of_the_length_that_they_have(tmp_path: Path) -> None:
    asked = request(Spec(V=1000, L=20), 0, 5)
    tokens = pa.list_(pa.field("element", pa.uint16(), nullable=False), 20)
    for form, schema_of in {
        "parquet": pq.read_schema,
        "arrow": lambda path: pa.ipc.open_file(path).schema,
    }.items():
        path = tmp_path / form
        write(MetaLMClient(), asked, str(path), form)
        assert schema_of(path).names == ["index", "x", "y"]
        assert schema_of(path).types == [pa.uint64(), tokens, tokens]


def test_pieces_are_of_bounded_size(tmp_path: Path) -> None:
    asked = request(Spec(V=8, L=2**16), 0, 300)
    for form in ("parquet", "arrow"):
        write(MetaLMClient(), asked, str(tmp_path / form), form)
    with pa.memory_map(str(tmp_path / "arrow")) as source:
        reader = pa.ipc.open_file(source)
        sizes = [reader.get_batch(k).nbytes for k in range(reader.num_record_batches)]
    assert max(sizes) <= 2**20 + 2**10
    groups = pq.ParquetFile(tmp_path / "parquet").metadata
    rows = [groups.row_group(k).num_rows for k in range(groups.num_row_groups)]
    assert rows == [128, 128, 44]


@pytest.mark.parametrize("form", BINARY)
def test_a_long_file_needs_no_more_memory_than_a_short_one(tmp_path: Path, form: str) -> None:
    """Of 128 MiB, which as anything but a stream would be seen."""
    code = (
        "import resource, sys; from metalm.cli import main;"
        "assert main(sys.argv[1:]) == 0;"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10, file=sys.stderr)"
    )
    path = str(tmp_path / f"file.{form}")
    mib = {}
    for samples in (256, 4096):
        flags = ["-V", "8", "-L", "16384", "--samples", str(samples), "--seed", "1"]
        for arguments in (["generate", *flags, "--output", path], ["verify", path]):
            done = subprocess.run(
                [sys.executable, "-c", code, *arguments], capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            mib[samples, arguments[0]] = int(done.stderr)
    for verb in ("generate", "verify"):
        assert mib[4096, verb] - mib[256, verb] < 64, mib


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_a_list_longer_than_arrow_has_is_refused(tmp_path: Path, form: str) -> None:
    with pytest.raises(InvalidArgument, match=r"sequence_length \(L\) is 2147483648; .*2147483647"):
        write(MetaLMClient(), request(Spec(L=2**31), 0, 1), str(tmp_path / "file"), form)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("form", BINARY)
def test_a_terminal_gets_no_bytes(form: str) -> None:
    controller, terminal = pty.openpty()
    done = subprocess.run(
        [*COMMAND, "generate", "--format", form, "--seed", "1"],
        stdout=terminal,
        stderr=subprocess.PIPE,
    )
    os.close(terminal)
    os.close(controller)
    assert done.returncode == 2
    assert f"a file or a pipe for {form}" in done.stderr.decode()


@pytest.mark.parametrize("form", FORMATS)
def test_a_full_disk_is_told_in_one_line(form: str) -> None:
    done = run(
        "generate", "--samples", "50", "--seed", "1", "--format", form, "--output", "/dev/full",
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == b"metalm: cannot write /dev/full: No space left on device\n"


def test_a_file_that_cannot_grow_leaves_what_was_there(tmp_path: Path) -> None:
    for form in FORMATS:
        path = tmp_path / form
        path.write_text("old")
        done = subprocess.run(
            [*COMMAND, "generate", "--samples", "100", "--seed", "1", "--format", form,
             "--output", str(path)],
            capture_output=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, 2**18)),
        )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr.decode() == f"metalm: cannot write {path}: File too large\n"
        assert path.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == sorted(FORMATS)


@pytest.mark.parametrize("form", FORMATS)
def test_a_reader_that_has_enough_is_no_error(form: str) -> None:
    process = metalm("generate", "--samples", "100000", "--seed", "1", "--format", form)
    assert process.stdout is not None
    assert process.stderr is not None
    os.read(process.stdout.fileno(), 10)
    process.stdout.close()
    with process.stderr as errors:
        assert errors.read() == ""
    assert process.wait(60) == 141


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_process_leaves_no_half_file(
    tmp_path: Path, form: str, number: signal.Signals
) -> None:
    process = metalm(
        "generate", "--samples", "10000000", "--seed", "1", "--format", form,
        "--output", str(tmp_path / "file"),
    )  # fmt: skip
    wait_until(lambda: any(file.stat().st_size > 2**20 for file in tmp_path.iterdir()), process)
    process.send_signal(number)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 128 + number
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.parametrize("shards", [[], ["--shard-samples", "5"]])
def test_without_pyarrow_its_formats_say_what_to_install(
    tmp_path: Path, form: str, shards: list[str]
) -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None;"
        "from metalm.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "generate", "--format", form, "--seed", "1", *shards,
         "--output", str(tmp_path / "output")],
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "pip install '.[arrow]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert os.listdir(tmp_path) == []
