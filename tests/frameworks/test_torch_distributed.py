"""Ranks of torch.distributed, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metalm import MetaLMClient
from tests.frameworks.training import RUN

ROOT = Path(__file__).parents[2]


@contextmanager
def ranks(
    rendezvous: Path, world_size: int, *, start: int, workers: int, pause_at: int
) -> Iterator[list[subprocess.Popen[str]]]:
    """The processes; killed at the end, and what they printed is read to its end."""
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.frameworks.training", str(rendezvous)),
                *map(str, (rank, world_size, start, workers, pause_at)),
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.communicate()


def lines(process: subprocess.Popen[str], count: int) -> list[dict[str, Any]]:
    assert process.stdout is not None
    return [json.loads(process.stdout.readline()) for _ in range(count)]


def test_two_ranks_are_killed_and_one_goes_on(tmp_path: Path) -> None:
    with ranks(tmp_path / "two", 2, start=0, workers=2, pause_at=4) as processes:
        steps = list(zip(*(lines(process, 4) for process in processes), strict=True))
    (position,) = {line["position"] for line in steps[-1]}
    assert position == 4 * 2 * 3
    seen = [row for step in steps for line in step for row in line["x"]]

    with ranks(tmp_path / "one", 1, start=position, workers=0, pause_at=0) as (process,):
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
    seen += [row for line in output.splitlines() for row in json.loads(line)["x"]]

    with MetaLMClient() as client:
        expected = [row for x, _ in client.batches(**RUN) for row in x.tolist()]
    assert len(expected) == 50
    assert seen == expected
