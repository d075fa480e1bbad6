"""`python -m tests.soak`: the long form; prints a table and fails if anything is out of bounds."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.soak.judge import Bounds, Verdict
from tests.soak.run import Plan, soak

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0, help="of the requests and of the crowd")
    given = parser.parse_args()
    minutes = given.minutes
    plan = Plan(
        seconds=60 * minutes,
        # The allocator's arenas, a pool of threads: they grow to their size and stay.
        warm_up_s=60 * max(minutes / 6, min(5, minutes / 3)),
        calibrate_s=20,
        seed=given.seed,
        bounds=Bounds(
            memory_mib=8,
            descriptors=4,
            threads=4,
            crowd=max(1, int(4 * minutes)),
            probes=int(100 * minutes),
        ),
    )
    with tempfile.TemporaryDirectory() as folder:
        verdict = Verdict(soak(plan, Path(folder)), plan.bounds)
    print(verdict)
    sys.exit(bool(verdict.failures))
