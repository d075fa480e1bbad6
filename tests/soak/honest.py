"""An honest client in a process of its own: asks at a pace, checks every byte, writes it all down."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from metalm import MetaLMError
from metalm.transports import connect
from metalm.transports.base import Transport
from metalm_proto.batch import digest_of
from tests.soak.processes import starting_together
from tests.soak.requests import Asked, Requests

_TIMEOUT_S = 30
_LATE_S = 5.0
"""A client further behind its schedule than this starts a new one: what it did not ask is missing
from its load, and the load is looked at in the end."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A request's end. `at_s`: by the machine's monotonic clock. `took_s`: since the request was
    due, or since it was sent for a client without a pace. `outcome`: "ok", "wrong" (bytes that the
    twin does not have), or the reason of an error."""

    at_s: float
    kind: str
    outcome: str
    took_s: float
    batches: int
    size: int
    detail: str = ""


def answered(path: Path) -> Iterator[Answered]:
    """What a client wrote down."""
    with path.open() as lines:
        for line in lines:
            yield Answered(*json.loads(line))


class Honest:
    """Some threads that ask at one address, at a pace or as much as they can."""

    def __init__(self, url: str, *, record: TextIO, sources: list[Requests]) -> None:
        self._transport = connect(url, timeout_s=_TIMEOUT_S)
        self._record = record
        self._sources = sources
        self._writing = threading.Lock()
        self._answers = 0

    def run(self, until: float, per_s: float | None) -> int:
        """Asks until then, `per_s` times a second, all threads together, or without a pause. Gives
        how many times."""
        began, before = time.monotonic(), self._answers
        every_s = None if per_s is None else len(self._sources) / max(per_s, 1e-9)
        threads = [
            threading.Thread(
                target=self._ask_on,
                args=(source, began + (every_s or 0) * k / len(self._sources), until, every_s),
            )
            for k, source in enumerate(self._sources)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self._answers - before

    def close(self) -> None:
        self._transport.close()

    def _ask_on(self, source: Requests, due: float, until: float, every_s: float | None) -> None:
        while (now := time.monotonic()) < until:
            if now < due:
                time.sleep(min(due, until) - now)
                continue
            if every_s is None or now - due > _LATE_S:
                due = now
            answer = ask(self._transport, source.draw(), due)
            due += every_s or 0.0
            line = json.dumps([getattr(answer, name) for name in Answered.__slots__])
            with self._writing:
                self._record.write(line + "\n")
                self._answers += 1


def ask(transport: Transport, asked: Asked, due: float) -> Answered:
    found, size, outcome, detail = [], 0, "ok", ""
    try:
        for batch in transport.batches(asked.request):
            found.append(digest_of(batch.x, batch.y))
            size += batch.x.nbytes + batch.y.nbytes
        if tuple(found) != asked.digests:
            outcome, detail = "wrong", f"{asked.request}: {found}, not {asked.digests}"
    except MetaLMError as error:
        outcome, detail = error.reason, str(error)
    now = time.monotonic()
    return Answered(now, asked.kind, outcome, now - due, len(found), size, detail)


def main(
    url: str,
    record: str,
    kinds: list[str],
    threads: int,
    seed: int,
    calibrate_s: float,
    seconds: float,
    share: float,
    per_s: float | None,
) -> None:
    """As much as goes for `calibrate_s`, then `share` of that for `seconds`; or nothing first and
    then `per_s` requests a second."""
    sources = [Requests(seed * threads + k, kinds) for k in range(threads)]
    with Path(record).open("w", buffering=1) as file:
        client = Honest(url, record=file, sources=sources)
        began = starting_together()
        if per_s is None:
            per_s = share * client.run(began + calibrate_s, None) / calibrate_s
        else:
            time.sleep(calibrate_s)
        client.run(began + calibrate_s + seconds, per_s)
        client.close()


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
