"""The page on frameworks does what it says."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.documents import blocks, here, outputs
from tests.frameworks.processes import in_a_process
from tests.service_process import Service
from training.options import parsed, parser

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "client" / "FRAMEWORKS.md"
EXAMPLES = ROOT / "client" / "examples" / "README.md"


def test_blocks_print_what_stands_below_them(service: Service) -> None:
    found = in_a_process(_outputs, here(PAGE.read_text(), service))
    assert [printed for printed, _ in found] == [written for _, written in found]
    assert len(found) >= 8


def _outputs(document: str) -> list[tuple[str, str]]:
    return list(outputs(document))


def test_the_commands_of_the_examples_run(service: Service, tmp_path: Path) -> None:
    """Those that take minutes are only understood."""
    commands = [
        shlex.split(line)
        for language, text in blocks(here(EXAMPLES.read_text(), service))
        if language == "sh"
        for line in text.splitlines()
    ]
    plan = subprocess.run(
        [sys.executable, "client/examples/published.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    planned = [shlex.split(line) for line in plan.splitlines() if line.startswith("python")]
    assert len(planned) == 6
    ran = 0
    for command in (*commands, *planned):
        if command[:2] != ["python", "client/examples/train.py"]:
            continue
        given = parser(None).parse_args(command[2:])
        if parsed(given).recipe.steps > 20:
            continue
        command[0] = sys.executable
        command[command.index("--output") + 1] = str(tmp_path / "run")
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "run" / "results.npz").exists()
        ran += 1
    assert ran == 1


def test_the_benchmark_prints_medians_and_their_ratio() -> None:
    """The figures are this machine's, and no test depends on them."""
    done = subprocess.run(
        [sys.executable, "-m", "metalm.bench.frameworks", "--quick"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^ +([012])(?: +\d+\.\d){3}$", done.stdout, re.MULTILINE) == ["0", "1", "2"]
