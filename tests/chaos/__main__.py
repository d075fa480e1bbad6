"""`python -m tests.chaos`: the long form; prints a report and fails if anything is wrong."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.chaos.run import Chaos, Plan

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--batches", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="of the faults and of the stream")
    given = parser.parse_args()
    plan = Plan(
        batches=given.batches,
        seed=given.seed,
        fault_every_s=0.3,
        deck=("cut", "reset", "flip") * 4 + ("stall", "stall", "kill", "kill", "stop"),
        stop_s=10,
        # For 100 000 batches, in some four minutes.
        at_least={
            kind: given.batches * number // 100_000
            for kind, number in {
                "kill": 8,
                "stop": 5,
                "cut": 30,
                "reset": 30,
                "stall": 10,
                "flip": 30,
            }.items()
        },
        step_s=0.003,
        seconds=60 + given.batches * 0.01,
    )
    with tempfile.TemporaryDirectory() as folder:
        report = Chaos(plan, Path(folder)).run()
    print(report.as_json())
    sys.exit(bool(report.failures))
