"""What a run tells of itself as it goes on: lines of JSON, and a picture of them."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any


class Journal:
    """A file of one JSON object a line, each with its `step`. Opened again at a step, it loses what
    stands behind that: those steps will be done again."""

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        self.entries = [entry for entry in _read(path) if entry["step"] <= step]
        path.write_text("".join(map(_line, self.entries)))

    def write(self, **entry: Any) -> None:
        self.entries.append(entry)
        with open(self._path, "a") as stream:
            stream.write(_line(entry))

    def draw(self, path: Path) -> None:
        """The loss of the training by tokens seen, and that of each evaluation by position; nothing
        where there is no matplotlib."""
        if find_spec("matplotlib") is None:
            return
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11, 4), layout="constrained")
        training, positions = figure.subplots(1, 2)
        steps = [entry for entry in self.entries if "loss" in entry]
        training.plot([e["tokens"] for e in steps], [e["loss"] for e in steps], color="black")
        training.set(xlabel="tokens seen", ylabel="training loss, nats a token")
        evaluations = [entry for entry in self.entries if "nll_by_position" in entry]
        for number, entry in enumerate(evaluations, 1):
            curve, last = entry["nll_by_position"], number == len(evaluations)
            positions.plot(
                [(part + 0.5) / len(curve) for part in range(len(curve))],
                curve,
                color="black" if last else "grey",
                alpha=1 if last else 0.1 + 0.4 * number / len(evaluations),
                label=f"{entry['split']}, step {entry['step']}" if last else None,
            )
        positions.set(xlabel="part of the sequence", ylabel="loss, nats a token")
        if evaluations:
            positions.legend()
        figure.savefig(path)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    # A last line without its end was being written when the program was killed.
    whole, _, _ = path.read_text().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry) + "\n"
