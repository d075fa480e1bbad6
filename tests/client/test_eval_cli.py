"""The commands `metalm floors`, `evaluate`, `compare` and `presets`."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest

from metalm import cli
from metalm.eval import PRESETS, read_report
from tests.client.evaluated import SAMPLES, SEED, SPEC, predictions
from tests.forked import run

SPEC_FLAGS = ("-V", "16", "-n", "6", "-l", "8", "-e", "0.1", "-L", "512")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def results(path: str, predictor: str, **others: object) -> str:
    told = {
        "log_probs": predictions(predictor),
        "spec": json.dumps(SPEC.as_dict()),
        "seed": SEED,
        "split": "test",
        "first": 0,
        **others,
    }
    arrays: dict[str, Any] = {
        name: np.asarray(value) for name, value in told.items() if value is not None
    }
    np.savez(path, **arrays)
    return path


def command(*arguments: str) -> int:
    return cli.main(arguments)


def test_floors_prints_a_table_and_writes_json_and_a_picture(tmp_path: Path) -> None:
    done = run("floors", *SPEC_FLAGS, "--samples", "4", "--seed", "7")
    text = done.stdout.decode()
    assert done.stderr == b""
    assert "test samples 0..3 of seed 7" in text
    rows = {line.split()[0]: line for line in text.splitlines() if line}
    for name in ("uniform", "suffix", "bayes-128", "greedy", "genie", "known"):
        assert " ± " in rows[name] or name in ("greedy", "genie", "known")
    assert rows["written:"] == "written: floors.json, floors.png"
    document = json.loads((tmp_path / "floors.json").read_text())
    assert document["spec"] == SPEC.as_dict()
    overall = document["predictors"]["uniform"]["overall"]["mean"]
    assert overall == [pytest.approx(np.log(17), abs=1e-6)]
    assert (tmp_path / "floors.png").stat().st_size > 10_000


def test_files_are_there_though_nobody_reads_the_text(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "metalm", "floors", *SPEC_FLAGS, "--samples", "2"],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(60) == 141
    assert {path.name for path in tmp_path.iterdir()} == {"floors.json", "floors.png"}


def test_the_text_is_printed_though_the_files_cannot_be_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command("floors", *SPEC_FLAGS, "--samples", "2", "--output", "no/such") == 1
    printed = capsys.readouterr()
    assert "uniform" in printed.out
    assert "no/such.json" in printed.err or "No such file" in printed.err


def test_files_go_where_they_are_told_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("floors", *SPEC_FLAGS, "--samples", "1")
    assert command(*flags, "--json", "a.json", "--png", "b.svg") == 0
    assert command(*flags, "-o", "c") == 0
    assert command(*flags, "--no-files") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "b.svg", "c.json", "c.png"}
    capsys.readouterr()
    assert command(*flags, "--plot", "b.gif") == 2
    assert capsys.readouterr().err.startswith("metalm: plot is 'b.gif'; it must be")
    assert command(*flags, "--no-files", "-o", "c") == 2
    assert command(*flags, "--split", "nowhere") == 2


def test_evaluate_and_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results("vote.npz", "vote", label="voter")
    results("last.npz", "last-copy")
    assert command("evaluate", "vote.npz", "-o", "a") == 0
    text = capsys.readouterr().out
    assert text.startswith("voter on V=16 n=6 l=8 e=0.1 L=512")
    for name in ("NLL ", "Bayes floor", "excess over it", "effective memory W*", "samples  "):
        assert f"  {name}" in text
    assert command("evaluate", "last.npz", "-o", "b", "--label", "copier") == 0
    assert read_report("a.json").label == "voter"
    capsys.readouterr()
    assert command("compare", "a.json", "b.json", "--plot", "both.svg") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["voter", "copier"]
    nll = next(line.split() for line in lines if line.startswith("NLL, nats"))
    vote, last = (-predictions(name).mean(dtype=np.float64) for name in ("vote", "last-copy"))
    assert nll[2:] == [f"{vote:.4f}", f"{last:.4f}"]
    difference = next(line for line in lines if line.startswith("voter: NLL, nats"))
    pairs = (predictions("vote") - predictions("last-copy")).mean(1, dtype=np.float64)
    error = pairs.std(ddof=1) / np.sqrt(SAMPLES)
    assert difference.split()[-3:] == [f"{last - vote:+.4f}", "±", f"{error:.4f}"]
    assert "copier" in (tmp_path / "both.svg").read_text()


def test_other_samples_are_not_compared(capsys: pytest.CaptureFixture[str]) -> None:
    results("a.npz", "vote")
    results("b.npz", "vote", first=5)
    for name in "ab":
        assert command("evaluate", f"{name}.npz", "--brief", "--json", f"{name}.json") == 0
    capsys.readouterr()
    assert command("compare", "a.json", "b.json") == 2
    told = capsys.readouterr().err
    assert told.startswith("metalm: sha256 of b is ")
    assert "the models were given other samples" in told
    assert command("compare", "a.json", "b.json", "--unpaired") == 0
    assert "not paired" in capsys.readouterr().out
    assert command("compare", "a.json") == 2


def test_logits_and_compressed_files_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    logits = np.zeros((3, SPEC.L, SPEC.vocabulary), np.float16)
    spec = json.dumps({"V": 16, "n": 6, "l": 8, "e": 0.1, "L": 512})
    np.savez_compressed("logits.npz", logits=logits, spec=spec, seed=7)
    assert command("evaluate", "logits.npz", "--json", "r.json") == 0
    report = read_report("r.json")
    assert report.overall.nll_nats == pytest.approx(np.log(18), abs=1e-6)
    assert report.evaluation_set.ranges == ((0, 3),)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"log_probs": None}, "with one of log_probs, logits"),
        (
            {"log_probs": np.zeros((2, 3, 4))},
            "log_probs is 'float64 of shape (2, 3, 4) in C order'",
        ),
        ({"log_probs": np.zeros((2, 3))}, "values is 'of shape (2, 3)'"),
        ({"log_probs": np.zeros((2, 3), complex)}, "log_probs is 'complex128"),
        ({"log_probs": np.full((2, 512), np.nan)}, "nan at sample 0, position 0"),
        ({"seed": None}, "seed is None"),
        ({"seed": -1}, "seed is -1"),
        ({"spec": None}, "spec is None"),
        ({"spec": '{"W": 1}'}, "spec is {'W': 1}"),
        ({"spec": "{"}, "results is 'bad.npz'"),
        ({"split": "none"}, "split is 'none'"),
        ({"label": 5}, "label is 5; it must be text"),
        ({"seed": [1, 2]}, "seed is 'int64 of shape (2,)'; it must be a single value"),
        ({"label": "l" * 2**19}, "label is '<U524288 of shape ()'; it must be a single value"),
        ({"spec": "[" * 10**5}, "results is 'bad.npz'"),
    ],
)
def test_wrong_files_are_refused_by_name(
    others: dict[str, object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    results("bad.npz", "vote", **others)
    assert command("evaluate", "bad.npz") == 2
    told = capsys.readouterr().err
    assert told.startswith("metalm: ")
    assert message in told
    assert len(told.splitlines()) == 1


def test_what_is_no_npz_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = Path(results("whole.npz", "vote")).read_bytes()
    (tmp_path / "text.npz").write_bytes(b"text")
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    damaged = bytearray(whole)
    damaged[1000] ^= 1
    (tmp_path / "damaged.npz").write_bytes(bytes(damaged))
    with ZipFile("whole.npz") as plain, ZipFile("squeezed.npz", "w", ZIP_DEFLATED) as compressed:
        for name in plain.namelist():
            compressed.writestr(name, plain.read(name))
    squeezed = Path("squeezed.npz").read_bytes()
    for name, place in (("header.npz", 200), ("squeezed.npz", len(squeezed) // 2)):
        (tmp_path / name).write_bytes(squeezed[:place] + bytes(20) + squeezed[place + 20 :])
    locked = bytearray(whole)  # said to be enciphered
    for head in (b"PK\x03\x04", b"PK\x01\x02"):
        flags = locked.index(head) + (6 if head[2] == 3 else 8)
        locked[flags] |= 1
    (tmp_path / "locked.npz").write_bytes(bytes(locked))
    broken = ("text", "cut", "damaged", "header", "squeezed", "locked", "absent")
    for name in (f"{kind}.npz" for kind in broken):
        assert command("evaluate", name) == 2
        assert capsys.readouterr().err.startswith(f"metalm: results is '{name}'; it must be")


def test_presets_are_listed_and_verified(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("presets") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["name", *PRESETS]
    assert command("presets", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["sha256"] for one in told] == [one.sha256 for one in PRESETS.values()]
    assert command("presets", "--verify", "10x32") == 0
    assert PRESETS["10x32"].sha256 in capsys.readouterr().out
    assert command("presets", "--verify", "11x32") == 2


def test_a_preset_stands_for_its_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = PRESETS["5x32-metagym"].evaluation_set
    assert command("sample", "--preset", "5x32-metagym") == 0
    sample = json.loads(capsys.readouterr().out)
    assert (sample["spec"], sample["seed"], sample["split"]) == (chosen.spec.as_dict(), 0, "test")
    assert command("generate", "--preset", "5x32-metagym", "--output", "set.npz") == 0
    with np.load("set.npz") as written:
        assert written["x"].shape == (256, 4096)
        assert json.loads(str(written["metadata"]))["spec"] == chosen.spec.as_dict()
    capsys.readouterr()
    assert command("floors", "--preset", "5x32-metagym", "--samples", "1", "--no-files") == 0
    assert "profile=metagym, test samples 0..0 of seed 0" in capsys.readouterr().out
    assert command("sample", "--preset", "5x32-metagym", "-V", "8") == 2
    assert "absent with --preset 5x32-metagym" in capsys.readouterr().err
    assert command("sample", "--preset", "none") == 2


def test_a_preset_may_begin_anywhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = PRESETS["5x32"].evaluation_set
    elsewhere = replace(PRESETS["5x32"], evaluation_set=replace(chosen, ranges=((5, 7),)))
    monkeypatch.setitem(PRESETS, "elsewhere", elsewhere)
    assert command("floors", "--preset", "elsewhere", "--no-files") == 0
    assert "test samples 5..6 of seed 0" in capsys.readouterr().out
    assert command("floors", "--preset", "elsewhere", "--first", "9", "--no-files") == 0
    assert "test samples 9..10 of seed 0" in capsys.readouterr().out


def test_a_preset_names_the_samples_of_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    uniform = np.full((256, 4096), -np.log(64), np.float32)
    np.savez("bare.npz", log_probs=uniform)
    assert (
        command("evaluate", "bare.npz", "--preset", "5x32-metagym", "--brief", "--json", "r.json")
        == 0
    )
    report = read_report("r.json")
    assert (report.preset, report.sha256) == ("5x32-metagym", PRESETS["5x32-metagym"].sha256)
    assert report.overall.nll_nats == pytest.approx(np.log(64), abs=1e-6)
    capsys.readouterr()
    np.savez("few.npz", log_probs=uniform[:3])
    assert command("evaluate", "few.npz", "--preset", "5x32-metagym") == 2
    assert "samples is 3; it must be the 256 of the preset" in capsys.readouterr().err
    np.savez("other.npz", log_probs=uniform, seed=1)
    assert command("evaluate", "other.npz", "--preset", "5x32-metagym") == 2
    assert "seed is 1; it must be 0, as of the preset 5x32-metagym" in capsys.readouterr().err


def test_without_matplotlib_only_a_wanted_picture_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("floors", *SPEC_FLAGS, "--samples", "1")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert command(*flags) == 0
    assert "no picture" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["floors.json"]
    assert command(*flags, "--plot", "wanted.png") == 1
    assert "pip install '.[eval]'" in capsys.readouterr().err
