"""The page on evaluation does what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.documents import outputs
from tests.forked import run

PAGE = Path(__file__).parents[2] / "client" / "EVALUATION.md"


def test_blocks_print_what_stands_below_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = list(outputs(PAGE.read_text()))
    assert [printed for printed, _ in found] == [written for _, written in found]
    assert len(found) == 3
    assert (tmp_path / "bigrams.png").stat().st_size > 10_000
    done = run("evaluate", "results.npz", "--brief", "-o", "uniform")
    assert b"NLL" in done.stdout
    assert b"bigrams" in run("compare", "bigrams.json", "bigrams.json").stdout
