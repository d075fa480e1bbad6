"""A trainer in a process of its own: takes batches and writes down what it was given."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from metalm import MetaLMClient
from tests.chaos.checker import Given


def train(
    urls: list[str],
    record: Path,
    enough: Path,
    count: int,
    stream: dict[str, Any],
    *,
    timeout_s: float,
    step_s: float,
    **client: Any,
) -> None:
    """At least `count` batches, and then until the file `enough` is there.

    `step_s`: seconds that the trainer takes for a step beside waiting for its batch.
    """
    with (
        record.open("wb", buffering=0) as file,
        MetaLMClient(urls, timeout_s=timeout_s, **client) as source,
        source.batches(**stream) as batches,
    ):
        asked_at = time.monotonic()
        for number, batch in enumerate(batches):
            if number >= count and enough.exists():
                break
            file.write(Given.of(batch, time.monotonic() - asked_at).packed())
            time.sleep(step_s)
            asked_at = time.monotonic()


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    for name in ("record", "enough"):
        arguments[name] = Path(arguments[name])
    train(**arguments)
