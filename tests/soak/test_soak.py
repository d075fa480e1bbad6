"""The short form of `make soak`: a good server passes, and planted defects are found and named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.soak.judge import Bounds, Verdict
from tests.soak.run import Plan, soak

PLAN = Plan(
    seconds=4,
    warm_up_s=0.5,
    calibrate_s=2,
    crowd_per_s=6,
    stay_s=0.5,
    every_s=0.05,
    bounds=Bounds(
        memory_mib=128,
        descriptors=64,
        threads=64,
        # On a machine that does other things too: that there is a load, and every kind of client.
        load=0.1,
        probes=0,
        drift_floor_s=30,
    ),
)


def test_a_good_server_passes(tmp_path: Path) -> None:
    verdict = Verdict(soak(PLAN, tmp_path), PLAN.bounds)
    assert not verdict.failures, str(verdict)


def test_planted_defects_are_found(tmp_path: Path) -> None:
    """In a server that leaks and alters."""
    # Less than leaks on a slow machine too.
    bounds = replace(PLAN.bounds, memory_mib=16, descriptors=8, threads=8)
    plan = replace(PLAN, bounds=bounds, program="tests.soak.planted", probes_per_s=50, settle_s=0)
    verdict = Verdict(soak(plan, tmp_path), plan.bounds)
    for found in (
        "memory, MiB: slope",
        "file descriptors are left over",
        "threads: slope",
        "times wrong",
        "refusals, more than",
    ):
        assert any(found in failure for failure in verdict.failures), (found, str(verdict))
