"""The command line, run as a command."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from metalm import MetaLMClient
from metalm_proto import formats
from tests.forked import run
from tests.service_process import Service

METAGYM = [
    "--vocab_size", "8", "--elements_length", "4", "--elements_number", "3",
    "--error_rate", "0.2", "--sequence_length", "20",
]  # fmt: skip


def expected(samples: int, start: int = 0) -> str:
    batch = MetaLMClient().batch(
        start, V=8, l=4, n=3, e=0.2, L=20, seed=5, batch_size=samples
    )  # fmt: skip
    return formats.to_text(batch)


def read_as_metagym_users_do(path: Path) -> tuple[list[list[int]], list[list[int]]]:
    """Lines of tab-separated pairs, as the training scripts for MetaGym's files split them."""
    features, labels = [], []
    for line in path.read_text().split("\n")[:-1]:
        pairs = [pair.split(",") for pair in line.strip().split("\t")]
        features.append([int(x) for x, _ in pairs])
        labels.append([int(y) for _, y in pairs])
    return features, labels


def test_sample_prints_what_the_service_would_answer() -> None:
    done = run("sample", "-V", "4", "-n", "2", "-l", "3", "-e", "0.2", "-L", "12", "--seed", "0")
    assert json.loads(done.stdout)["x"] == [2, 2, 1, 5, 3, 2, 0, 2, 3, 3, 3, 5]
    text = run("sample", "--vocab-size", "8", "-L", "5", "--seed", "1", "--format", "text")
    assert text.stdout.count(b"\t") == 4


def test_generate_takes_metagyms_flags_and_writes_its_format(tmp_path: Path) -> None:
    output = tmp_path / "file"
    run("generate", *METAGYM, "--samples", "70", "--seed", "5", "--output", str(output))
    assert output.read_text() == expected(70)
    x, y = read_as_metagym_users_do(output)
    batch = MetaLMClient().batch(V=8, l=4, n=3, e=0.2, L=20, seed=5, batch_size=70)
    assert (batch.x == np.array(x)).all()
    assert (batch.y == np.array(y)).all()


def test_generate_without_output_writes_to_standard_output() -> None:
    done = run("generate", *METAGYM, "--samples", "2", "--seed", "5", "--start", "3")
    assert done.stdout.decode() == expected(2, start=3)
    # In a pipe there is no progress bar, nor anything else.
    assert done.stderr == b""


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_generate_from_a_service_gives_the_same_file(
    service: Service, tmp_path: Path, door: str
) -> None:
    output = tmp_path / "file"
    run(
        "generate", *METAGYM, "--samples", "40", "--seed", "5", "--url", getattr(service, door),
        "--output", str(output),
    )  # fmt: skip
    assert output.read_text() == expected(40)


def test_generate_npz(tmp_path: Path) -> None:
    paths = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for path in paths:
        run(
            "generate", *METAGYM, "--samples", "70", "--seed", "5", "--format", "npz",
            "--output", str(path),
        )  # fmt: skip
    assert paths[0].read_bytes() == paths[1].read_bytes()
    archive = np.load(paths[0])
    batch = MetaLMClient().batch(V=8, l=4, n=3, e=0.2, L=20, seed=5, batch_size=70)
    assert archive["x"].dtype == np.uint8
    assert np.array_equal(archive["x"], batch.x)
    assert np.array_equal(archive["y"], batch.y)
    metadata = json.loads(str(archive["metadata"]))
    assert metadata["digest"] == f"{batch.digest:016x}"
    assert metadata["samples"] == 70
    assert (metadata["seed"], metadata["first"]) == (5, 0)
    assert metadata["spec"] == batch.spec.as_dict()


def test_a_name_that_ends_in_npz_is_one(tmp_path: Path) -> None:
    output = tmp_path / "file.npz"
    run("generate", *METAGYM, "--samples", "1", "--seed", "5", "--output", str(output))
    assert np.load(output)["x"].shape == (1, 20)


def test_an_existing_file_keeps_its_mode(tmp_path: Path) -> None:
    output = tmp_path / "file"
    output.touch(0o600)
    output.chmod(0o600)
    run("generate", *METAGYM, "--samples", "1", "--seed", "5", "--output", str(output))
    assert output.stat().st_mode & 0o777 == 0o600


def test_a_drawn_seed_is_told_on_standard_error() -> None:
    done = run("generate", *METAGYM, "--samples", "2")
    seed = done.stderr.decode().split()[-1]
    again = run("generate", *METAGYM, "--samples", "2", "--seed", seed)
    assert again.stdout == done.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["generate", "--vocab_size", "1"], ["vocab_size (V)", "1", "2 <= V"]),
        (["generate", "--samples", "0"], ["samples", "0", "1 <= samples"]),
        (["sample", "-e", "1"], ["error_rate (e)", "1"]),
        (["sample", "--seed", "x"], ["seed", "x"]),
        (["sample", "--url", "ftp://a"], ["url", "ftp://a", "grpc://"]),
        (["generate", "--output", ""], ["output", "a file"]),
        (["sample", "--format", "text", "--provenance"], ["provenance", "text"]),
        (["sample", "-L", "17179869184"], ["batch_size", "bytes"]),
        (["generate", "--format", "csv"], ["--format", "csv"]),
        (["serve", "--sed", "7"], ["--sed"]),
        ([], ["COMMAND"]),
    ],
    ids=str,
)
def test_wrong_usage_is_two_and_named(arguments: list[str], named: list[str]) -> None:
    done = run(*arguments, check=False)
    assert done.returncode == 2
    for part in named:
        assert part in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "grpc://127.0.0.1:9"])
def test_no_service_is_one_and_told(url: str) -> None:
    done = run("sample", "--url", url, "--timeout-s", "0.2", check=False)
    assert done.returncode == 1
    trying, failed = done.stderr.decode().splitlines()
    assert "trying again for 0.2 s" in trying
    assert failed.startswith("metalm: ")
    assert url.partition("//")[2] in failed


def test_a_full_disk_is_told_and_leaves_what_was_there(tmp_path: Path) -> None:
    done = run("generate", "--samples", "50", "--seed", "1", "--output", "/dev/full", check=False)
    assert done.returncode == 1
    assert b"/dev/full: No space left on device" in done.stderr
    missing = run("generate", "--output", str(tmp_path / "no" / "file"), check=False)
    assert missing.returncode == 1
    assert b"No such file or directory" in missing.stderr


def test_a_broken_pipe_ends_quietly() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "metalm", "generate", "--samples", "100000", "--seed", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 141


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_killed_generate_leaves_the_old_file_and_no_other(
    tmp_path: Path, number: signal.Signals
) -> None:
    output = tmp_path / "file"
    output.write_text("old")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "metalm",
            "generate",
            "--samples",
            "10000000",
            "--seed",
            "1",
            "--output",
            str(output),
        ],
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 60
    while len(os.listdir(tmp_path)) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    assert os.listdir(tmp_path) == ["file"]
    assert output.read_text() == "old"


def test_a_terminal_sees_progress(tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "metalm",
            "generate",
            "--samples",
            "64",
            "--seed",
            "1",
            "--output",
            str(tmp_path / "file"),
        ],
        stderr=terminal,
    )
    assert process.wait(60) == 0
    os.close(terminal)
    seen = b""
    with suppress(OSError):  # that is how a terminal ends
        while piece := os.read(controller, 4096):
            seen += piece
    os.close(controller)
    assert b"64/64" in seen


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    run("generate", *METAGYM, "--samples", "1", "--seed", "5", "--output", str(link))
    assert link.is_symlink()
    assert target.read_text() == expected(1)


def test_no_standard_output_is_told() -> None:
    command = f"{sys.executable} -m metalm generate --samples 1 --seed 1 >&-"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "metalm: cannot write standard output: Bad file descriptor\n"


def test_version_names_the_generator() -> None:
    assert b"metalm-1" in run("--version").stdout


def test_a_state_that_cannot_be_read_is_named() -> None:
    for path in ("/nope.json", "/"):
        done = run("replay", "--state", path, "--step", "1", check=False)
        told = done.stderr.decode()
        assert done.returncode != 0
        assert f"state is '{path}'; it must be a file with the JSON of a state_dict" in told
        assert "Traceback" not in told
