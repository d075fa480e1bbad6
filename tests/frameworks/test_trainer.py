"""The trainer of the examples: it goes on where it stopped, and tells what it found."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import train
from metalm import MetaLMClient
from metalm.eval.results import evaluator_of
from models import REFERENCE, Size
from tests.frameworks.processes import in_a_process
from tests.service_process import Service
from training.checkpoint import load
from training.meter import Meter
from training.recipe import RECIPES
from training.trainer import Trainer

SPEC: dict[str, Any] = {"V": 8, "n": 3, "l": 4, "L": 40}
SMALL = [
    *(part for name, value in SPEC.items() for part in (f"-{name}", str(value))),
    *[
        "--seed",
        "7",
        "--steps",
        "6",
        "--batch-size",
        "4",
        "--layers",
        "2",
        "--width",
        "16",
        "--heads",
        "2",
        "--segment",
        "16",
    ],
    *[
        "--report-every",
        "1",
        "--evaluate-every",
        "3",
        "--validation-samples",
        "4",
        "--samples",
        "6",
    ],
    *["--threads", "1", "--device", "cpu"],
]


_train_on = Trainer.train_on


def run(directory: Path, *flags: str) -> int:
    return train.main([*SMALL, "--output", str(directory), *flags])


def trained(directory: Path) -> dict[str, Any]:
    found = load(directory / "checkpoint.pt")
    assert found is not None
    return found


def journal(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "journal.jsonl").read_text().splitlines()]


@pytest.fixture
def behind_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], list[Any]]:
    """Sends this process a signal behind a step; gives the batches that are trained on."""

    def arrange(at: int, number: int) -> list[Any]:
        seen: list[Any] = []
        monkeypatch.setattr(Trainer, "train_on", signalling(at, number, seen))
        return seen

    return arrange


def signalling(at: int, number: int, seen: list[Any]) -> Any:
    def train_on(self: Trainer, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        loss = _train_on(self, x, y)
        seen.append((x.tolist(), y.tolist()))
        if self.step == at:
            os.kill(os.getpid(), number)
        return loss

    return train_on


def same(one: Any, other: Any) -> bool:
    """Bit for bit, through dictionaries and lists."""
    if isinstance(one, torch.Tensor):
        return bool(torch.equal(one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("model", REFERENCE)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(
    model: str,
    number: int,
    tmp_path: Path,
    behind_step: Callable[[int, int], list[Any]],
    service: Service,
) -> None:
    stopped, through = tmp_path / "stopped", tmp_path / "through"
    seen = behind_step(3, number)
    before = signal.getsignal(number)
    flags = ("--model", model, "--url", service.http)
    assert run(stopped, *flags) == 128 + number
    assert signal.getsignal(number) == before
    assert trained(stopped)["trainer"]["step"] == 3
    assert not (stopped / "results.npz").exists()
    assert run(stopped, *flags) == 0
    with MetaLMClient() as client:
        twin = client.batches(seed=7, batch_size=4, count=6, **SPEC)
        assert seen == [(x.tolist(), y.tolist()) for x, y in twin]

    behind_step(0, 0)
    assert run(through, *flags) == 0
    assert same(trained(stopped), trained(through))
    assert (stopped / "results.npz").read_bytes() == (through / "results.npz").read_bytes()
    entries = journal(stopped)
    assert [entry["step"] for entry in entries if "loss" in entry] == [1, 2, 3, 4, 5, 6]
    assert [(entry["step"], entry["split"]) for entry in entries if "nll" in entry] == [
        (3, "validation"), (6, "validation"), (6, "test"),
    ]  # fmt: skip
    assert [entry["loss"] for entry in entries if "loss" in entry] == [
        entry["loss"] for entry in journal(through) if "loss" in entry
    ]


def test_a_run_that_was_killed_goes_on_at_its_checkpoint(tmp_path: Path) -> None:
    killed, through = tmp_path / "killed", tmp_path / "through"
    flags = ("--model", "txl", "--checkpoint-every", "2")
    with pytest.raises(BrokenProcessPool):
        in_a_process(_killed, killed, flags)
    assert trained(killed)["trainer"]["step"] == 4
    assert run(killed, *flags) == run(through, *flags) == 0
    assert same(trained(killed), trained(through))
    assert [entry["step"] for entry in journal(killed) if "loss" in entry] == [1, 2, 3, 4, 5, 6]


def _killed(directory: Path, flags: tuple[str, ...]) -> None:
    Trainer.train_on = signalling(5, signal.SIGKILL, [])  # type: ignore[method-assign]
    run(directory, *flags)


def test_results_are_what_the_weights_say_of_the_test_set(tmp_path: Path) -> None:
    assert run(tmp_path, "--model", "lstm") == 0
    size = Size(layers=2, width=16, heads=2, segment=16)
    recipe = replace(RECIPES["lstm"], size=size)
    trainer = Trainer(recipe, 10, torch.device("cpu"))
    trainer.load_state_dict(trained(tmp_path)["trainer"])
    with MetaLMClient() as client:
        batch = client.batch(0, seed=7, split="test", batch_size=6, **SPEC)
    x, y = (torch.as_tensor(part).long() for part in batch)
    logits, _ = trainer.model(x)
    expected = logits.log_softmax(-1).gather(-1, y[..., None])[..., 0].detach()
    with np.load(tmp_path / "results.npz") as found:
        assert found["log_probs"].dtype == np.float32
        np.testing.assert_allclose(found["log_probs"], expected, atol=1e-5)
    evaluator = evaluator_of(tmp_path / "results.npz")
    assert (evaluator.samples, evaluator.seed, evaluator.split) == (6, 7, "test")
    entry = journal(tmp_path)[-1]
    assert entry["nll"] == pytest.approx(-expected.mean().item(), abs=1e-5)
    assert np.mean(entry["nll_by_position"]) == pytest.approx(entry["nll"], abs=0.02)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--clip", "2"), "clip is 2.0; it must be 1.0, as in"),
        (("--width", "32"), "width is 32; it must be 16, as in"),
        (("--seed", "8"), "state seed is 7; it must be 8"),
        (("-e", "0.2"), "state spec.e is 0.1; it must be 0.2"),
        (("--steps", "0"), "steps is 0; it must be an integer with 1 <= steps"),
        (("--preset", "10x32-metagym"), "vocab_size (V) is '8'; it must be absent with"),
        (("--device", "abacus"), "device is 'abacus'"),
        (("--model", "txl", "--width", "6"), "width is 6; it must be a multiple of 4"),
    ],
    ids=str,
)
def test_another_run_in_the_same_place_is_refused(
    flags: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And so is what no run can be."""
    assert run(tmp_path, "--model", "lstm", "--steps", "1") == 0
    weights = (tmp_path / "checkpoint.pt").read_bytes()
    assert run(tmp_path, "--model", "lstm", "--steps", "1", *flags) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "checkpoint.pt").read_bytes() == weights


def test_a_loss_that_is_no_number_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train_on(self: Trainer, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        loss = _train_on(self, x, y)
        return loss * float("nan") if self.step == 5 else loss

    monkeypatch.setattr(Trainer, "train_on", train_on)
    assert run(tmp_path, "--model", "lstm", "--checkpoint-every", "2") == 1
    assert "the loss is nan in the steps 4 to 4" in capsys.readouterr().err
    assert trained(tmp_path)["trainer"]["step"] == 4


def test_a_preset_names_stream_and_test_set() -> None:
    from training.options import parsed, parser

    flags = ["--model", "txl", "--output", "x", "--preset", "10x32-metagym"]
    options = parsed(parser(None).parse_args(flags))
    assert (options.spec.n, options.spec.profile, options.seed) == (10, "metagym", 0)
    assert options.test == range(256)
    assert options.recipe.size == REFERENCE["txl"]
    assert options.recipe.precision == ("bfloat16" if torch.cuda.is_available() else "float32")


def test_the_learning_rate_rises_and_falls() -> None:
    recipe = RECIPES["txl"]
    rates = [recipe.rate_at(step) for step in range(recipe.steps)]
    peak = rates.index(max(rates))
    assert peak == recipe.warmup - 1
    assert rates[peak] == recipe.learning_rate
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[0] == pytest.approx(recipe.learning_rate / recipe.warmup)
    assert rates[-1] == pytest.approx(recipe.learning_rate / 10, rel=1e-4)


def test_the_meter_counts_what_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    meter = Meter(torch.device("cpu"))
    for _ in range(2):
        with meter.waiting():
            now += 1
        now += 4
        meter.count(50)
    with meter.stopped():
        now += 1000
    reading = meter.read()
    assert (reading.tokens, reading.seconds, reading.waited_s) == (100, 10, 2)
    assert (reading.tokens_per_s, reading.waiting) == (10, 0.2)
    now += 10
    assert meter.read().waiting == 0
    assert (meter.total.seconds, meter.total.waiting) == (20, 0.1)
