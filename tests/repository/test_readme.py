"""The README does what it says: its code runs, and its output is what comes out."""

from __future__ import annotations

import doctest
import json
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.documents import blocks, here, outputs
from tests.service_process import Service

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = blocks(README)

# Run by .ci/run (it is how this very test was started), by tests/docker/run.sh, and by the tests of
# the server.
RUN_ELSEWHERE = {"make serve", "make test", "docker compose up"}


def test_python_blocks_print_what_stands_below_them(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = list(outputs(here(README, service)))
    assert [printed for printed, _ in found] == [written for _, written in found]
    assert len(found) >= 4


def test_shell_blocks_run(service: Service, tmp_path: Path) -> None:
    for language, text in BLOCKS:
        if language != "sh":
            continue
        for line in text.splitlines():
            if line in RUN_ELSEWHERE:
                continue
            command = shlex.split(here(line, service))
            assert command[0] in ("curl", "metalm"), f"say where this is run: {line}"
            if command[0] == "curl":
                command.insert(1, "--fail")
            else:
                command[:1] = [sys.executable, "-m", "metalm"]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            if "/sample?V=64&n=10" in line:
                assert len(json.loads(done.stdout)["x"]) == 4096
    assert (tmp_path / "file").read_text().count("\n") == 2


@pytest.mark.parametrize(
    "module",
    [
        "metalm.client",
        "metalm.eval.evaluator",
        "metalm.eval.ladder",
        "metalm.gym",
        "metalm.source",
        "metalm_proto.spec",
    ],
)
def test_examples_in_docstrings_are_true(module: str) -> None:
    result = doctest.testmod(import_module(module))
    assert result.attempted > 0
    assert result.failed == 0


def test_the_benchmark_prints_the_table_of_the_readme() -> None:
    """The same rows; the figures are this machine's, and no test depends on them."""
    done = subprocess.run(
        [sys.executable, "-m", "metalm", "bench", "--quick"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert titles(done.stdout) == titles(README.partition("## Speed")[2].partition("## Tests")[0])
    assert len(titles(README)) > 10


def titles(text: str) -> list[str]:
    """The first cells of a table of the benchmark, without what depends on machine and length."""
    rows = re.findall(r"^\| (.+?) *\| +\S+ (?:Mtok/s|s|ms|MiB)", text, re.MULTILINE)
    # The C program has no row where there is no compiler.
    return [re.sub(r"\(numba\)|\de\+\d+", "", row) for row in rows if not row.startswith("C,")]


def test_links_in_the_documents_lead_somewhere() -> None:
    for document in [
        *ROOT.glob("*.md"),
        *ROOT.glob("proto/**/*.md"),
        *ROOT.glob("client/**/*.md"),
        *ROOT.glob("service/*.md"),
    ]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"
