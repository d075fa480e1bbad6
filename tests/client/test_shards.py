"""Shards with a manifest: whole after a kill, and found out when they are not what they were."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from metalm.cli import main
from tests.command import COMMAND, wait_until

FORMATS = ["text", "npz", "parquet", "arrow", "jsonl"]
STREAM = ["-V", "8", "-n", "3", "-l", "4", "-L", "40", "--seed", "7", "--split", "test"]
SHARDS = [*STREAM, "--samples", "50", "--start", "5", "--shard-samples", "20"]


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(scope="module", params=FORMATS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three shards."""
    directory = tmp_path_factory.mktemp("run") / str(request.param)
    assert command("generate", *SHARDS, "--format", request.param, "--output", directory)[0] == 0
    return directory


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def command(*arguments: object) -> tuple[int, str]:
    """The command's exit status and what it says, without the cost of a process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            status = main([str(argument) for argument in arguments])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return status, said.getvalue()


def refused(directory: Path) -> str:
    status, said = command("verify", directory)
    assert status == 1, said
    return said


def test_the_manifest_says_what_is_there(whole: Path) -> None:
    manifest = json.loads((whole / "manifest.json").read_text())
    assert (manifest["seed"], manifest["split"], manifest["spec"]["V"]) == (7, "test", 8)
    assert [shard["first"] for shard in manifest["shards"]] == [5, 25, 45]
    assert [shard["samples"] for shard in manifest["shards"]] == [20, 20, 10]
    files = {shard["file"] for shard in manifest["shards"]}
    assert {path.name for path in whole.iterdir()} == files | {"manifest.json"}
    assert all(name.startswith("test-0000") for name in files)
    _, said = command("verify", whole / "manifest.json")
    assert "50 samples of metalm-1, seed 7, test from 5" in said


def test_a_finished_run_is_left_as_it_is(copied: Path) -> None:
    before = contents(copied)
    again = command("generate", *SHARDS, "--format", format_in(copied), "--output", copied)
    assert again[0] == 0
    assert contents(copied) == before


def format_in(directory: Path) -> str:
    form: str = json.loads((directory / "manifest.json").read_text())["format"]
    return form


def test_a_flipped_bit_is_found_wherever_it_is(copied: Path) -> None:
    shard = sorted(copied.glob("test-*"))[1]
    data = shard.read_bytes()
    for position in range(0, len(data), max(1, len(data) // 3)):
        altered = bytearray(data)
        altered[position] ^= 1
        shard.write_bytes(altered)
        assert shard.name in refused(copied)


def swap(shards: list[Path]) -> None:
    first, second = shards[0].read_bytes(), shards[1].read_bytes()
    shards[0].write_bytes(second)
    shards[1].write_bytes(first)


DAMAGE: dict[str, tuple[Callable[[list[Path]], object], int, str]] = {
    "missing": (lambda shards: shards[1].unlink(), 1, "missing"),
    "truncated": (lambda shards: shards[2].write_bytes(shards[2].read_bytes()[:-9]), 2, "bytes"),
    "extra": (lambda shards: shutil.copy(shards[0], shards[0].with_stem("other")), 0, "other"),
    "swapped": (swap, 0, ""),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named(copied: Path, kind: str) -> None:
    damage, number, said = DAMAGE[kind]
    shards = sorted(copied.glob("test-*"))
    damage(shards)
    told = refused(copied)
    assert said in told
    assert shards[number].name in told or kind == "extra"


def test_the_first_different_token_is_named(tmp_path: Path) -> None:
    command("generate", *SHARDS, "--format", "text", "--output", tmp_path / "run")
    shard = sorted((tmp_path / "run").glob("test-*"))[0]
    lines = shard.read_text().splitlines()
    pairs = lines[3].split("\t")
    x, y = pairs[7].split(",")
    pairs[7] = f"{(int(x) + 1) % 9},{y}"
    lines[3] = "\t".join(pairs)
    shard.write_text("\n".join(lines) + "\n")
    assert f"sample 8, position 7: x is {(int(x) + 1) % 9}; it should be {x}" in refused(
        tmp_path / "run"
    )


def test_a_manifest_that_is_not_true_is_refused(copied: Path) -> None:
    manifest = copied / "manifest.json"
    true = json.loads(manifest.read_text())
    for change in (
        {"seed": 8},
        {"format_version": 2},
        {"start": 4},
        {"shards": true["shards"][:2]},
        {"shards": [{**true["shards"][0], "file": "../x"}, *true["shards"][1:]]},
    ):
        manifest.write_text(json.dumps({**true, **change}))
        assert command("verify", copied)[0] in (1, 2)
    manifest.write_text("{")
    status, said = command("verify", copied)
    assert status == 2
    assert "manifest" in said


def test_another_run_and_foreign_files_are_left_alone(copied: Path, tmp_path: Path) -> None:
    before = contents(copied)
    form = format_in(copied)
    for change, named in (["--seed", "8"], "seed"), (["-V", "9"], "vocab_size"):
        arguments = (*SHARDS, *change, "--format", form, "--output", copied)
        status, said = command("generate", *arguments)
        assert status == 2
        assert named in said
    assert contents(copied) == before
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis").write_text("mine")
    status, said = command("generate", *SHARDS, "--format", form, "--output", foreign)
    assert status == 2
    assert "thesis" in said
    assert contents(foreign) == {"thesis": b"mine"}


@pytest.mark.parametrize(("form", "shard"), [("npz", 0), ("parquet", 2), ("jsonl", 5)])
def test_a_killed_run_goes_on_to_the_bytes_of_one_that_was_not(
    tmp_path: Path, form: str, shard: int
) -> None:
    arguments = [*STREAM, "--samples", "3200", "--shard-samples", "400", "--format", form]
    command("generate", *arguments, "--output", tmp_path / "undisturbed")
    names = sorted(path.name for path in (tmp_path / "undisturbed").glob("test-*"))
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [*COMMAND, "generate", *arguments, "--output", str(killed)], stderr=subprocess.DEVNULL
    )
    wait_until((killed / names[shard]).exists, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path.name: path.stat().st_ino for path in killed.glob("test-*")}
    assert command("generate", *arguments, "--output", killed)[0] == 0
    assert contents(killed) == contents(tmp_path / "undisturbed")
    # All but the last one before the kill were written down, and so were kept.
    again = {path.name: path.stat().st_ino for path in killed.glob("test-*")}
    assert sum(again[name] == inode for name, inode in kept.items()) >= shard


def test_a_drawn_seed_is_gone_on_with(tmp_path: Path) -> None:
    arguments = ["-V", "8", "-L", "40", "--samples", "3200", "--shard-samples", "400"]
    process = subprocess.Popen(
        [*COMMAND, "generate", *arguments, "--output", str(tmp_path / "run")],
        stderr=subprocess.DEVNULL,
    )
    first = tmp_path / "run" / "train-00000-of-00008.npz"
    wait_until(first.exists, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = first.read_bytes()
    assert command("generate", *arguments, "--output", tmp_path / "run")[0] == 0
    assert first.read_bytes() == before
    assert command("verify", tmp_path / "run")[0] == 0
