"""What the trainer of the examples tells of itself; it needs torch, this part of it does not."""

from __future__ import annotations

import json
from pathlib import Path

from training.journal import Journal


def test_a_line_that_was_half_written_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    Journal(path, 2).write(step=3, loss=1.5)
    lines = path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 1}, {"step": 2}, {"step": 3, "loss": 1.5},
    ]  # fmt: skip


def test_the_picture_is_of_all_that_was_told(tmp_path: Path) -> None:
    journal, pictures = Journal(tmp_path / "journal.jsonl", 0), []
    for step in (1, 2):
        journal.write(step=step, tokens=100 * step, loss=3 - step)
        journal.write(step=step, split="validation", nll=1, nll_by_position=[2, 1.5, step])
        journal.draw(tmp_path / "journal.png")
        pictures.append((tmp_path / "journal.png").read_bytes())
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert len(set(pictures)) == 2
    again = Journal(tmp_path / "journal.jsonl", 2)
    again.draw(tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == pictures[1]
