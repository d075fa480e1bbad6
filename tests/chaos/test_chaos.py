"""The short form of `make chaos`."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.run import Chaos, Plan


def test_nothing_is_lost_doubled_altered_or_reordered(tmp_path: Path) -> None:
    plan = Plan(
        batches=1000,
        fault_every_s=0.1,
        deck=("cut", "reset", "flip", "stall", "kill", "stop"),
        stop_s=1,
        at_least={"kill": 1, "stop": 1, "cut": 1, "reset": 1, "stall": 1, "flip": 1},
        step_s=0.003,
        seconds=60,
    )
    report = Chaos(plan, tmp_path).run()
    assert not report.failures, report.as_json()
