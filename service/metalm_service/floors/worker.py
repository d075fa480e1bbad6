"""The process that computes floors: a line of JSON with what is wanted comes in, a line of JSON
with the answer goes out, and the end of the input is its end.

Of its own, because a thread that is of low priority may have the interpreter when it is not given
a core, and then nobody else has it; and because a process can be ended in the middle.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading

from metalm_proto.floors import FloorsRequest
from metalm_service.core.floors.summary import summarise


def main() -> None:
    """Answers until nobody asks any more."""
    questions: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(questions,), daemon=True).start()
    while True:
        wanted = FloorsRequest.from_dict(json.loads(questions.get()))
        summary = summarise(
            wanted.spec, wanted.seed, wanted.split, wanted.first, wanted.samples, threads=1
        )
        print(json.dumps(summary.as_dict(steps=wanted.steps), allow_nan=False), flush=True)


def _read(questions: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        questions.put(line)
    # Also in the middle of an answer: a service that was killed takes none.
    os._exit(0)


if __name__ == "__main__":
    main()
