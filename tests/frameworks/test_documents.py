"""The page on frameworks does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.documents import here, outputs
from tests.frameworks.processes import in_a_process
from tests.service_process import Service

PAGE = Path(__file__).parents[2] / "client" / "FRAMEWORKS.md"


def test_blocks_print_what_stands_below_them(service: Service) -> None:
    found = in_a_process(_outputs, here(PAGE.read_text(), service))
    assert [printed for printed, _ in found] == [written for _, written in found]
    assert len(found) >= 8


def _outputs(document: str) -> list[tuple[str, str]]:
    return list(outputs(document))


def test_the_benchmark_prints_medians_and_their_ratio() -> None:
    """The figures are this machine's, and no test depends on them."""
    done = subprocess.run(
        [sys.executable, "-m", "metalm.bench.frameworks", "--quick"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^ +([012])(?: +\d+\.\d){3}$", done.stdout, re.MULTILINE) == ["0", "1", "2"]
