"""The process that computes floors: a line of JSON with what is wanted comes in, a line of JSON
with the answer goes out, and the end of the input is its end.

Of its own, because a thread that is of low priority may have the interpreter when it is not given
a core, and then nobody else has it; and because a process can be ended in the middle.
"""

from __future__ import annotations

import json
import os
import sys

from metalm_proto.floors import FloorsRequest
from metalm_service.core.floors.summary import summarise

_LEAST_PRIORITY = 19


def main() -> None:
    """Answers until nobody asks any more."""
    os.nice(_LEAST_PRIORITY)
    for line in sys.stdin:
        wanted = FloorsRequest.from_dict(json.loads(line))
        summary = summarise(
            wanted.spec, wanted.seed, wanted.split, wanted.first, wanted.samples, threads=1
        )
        print(json.dumps(summary.as_dict(steps=wanted.steps), allow_nan=False), flush=True)


if __name__ == "__main__":
    main()
