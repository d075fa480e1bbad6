"""A server that is fuzzed: whether it is still well, and whether it holds more than before."""

from __future__ import annotations

import socket
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urlsplit

from metalm import MetaLMClient
from tests.door import eventually, opened
from tests.service_process import Service
from tests.vitals import Vitals, peak_mib, settled, vitals

ANSWER_S = 60
"""For whoever waits for an answer, on a machine that does other things too."""
_DESCRIPTORS = 4
_THREADS = 128 + 8 + 32
"""Requests at one time, what is spare, and what the libraries have."""


@dataclass
class Tally:
    """What came of a campaign. `answers`: how many of each kind. `findings`: what must not be."""

    name: str
    cases: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    def count(self, answer: str) -> None:
        self.cases += 1
        self.answers[answer] += 1


class Target:
    """`grown_mib`, `peak_grown_mib`: what the server may have grown by, after a campaign, and at its
    highest. `settle_s`: what it may take to close what others have left."""

    def __init__(
        self,
        service: Service,
        grown_mib: float = 96,
        peak_grown_mib: float = 256,
        settle_s: float = 30,
    ) -> None:
        self.http, self.grpc = service.http, service.grpc
        self._pid = service.process.pid
        self._lines = service.lines
        self._settle_s = settle_s
        self._grown_mib, self._peak_grown_mib = grown_mib, peak_grown_mib
        with MetaLMClient("inprocess:") as twin:
            self._digest = twin.sample(3, L=300, seed=5).digest
        self.be_well()
        self._before = vitals(self._pid)
        self.begin()

    def connected(self, door: str) -> socket.socket:
        """A new connection to a door, "http" or "grpc"."""
        parts = urlsplit(getattr(self, door))
        return socket.create_connection((parts.hostname, parts.port), timeout=ANSWER_S)

    def be_well(self) -> None:
        """Returns as soon as an honest request has its right answer at either door: right behind a
        flood, gRPC may still refuse by chance. Raises whatever else a request meets."""
        for url in (self.http, self.grpc):
            with opened(url, timeout_s=ANSWER_S) as door:
                assert eventually(partial(door.sample, 3, L=300, seed=5)).digest == self._digest

    def begin(self) -> Vitals:
        """From here on, what the server holds is compared with what it holds now."""
        self._before = settled(self._pid, self._before.descriptors)
        self._peak_before = peak_mib(self._pid)
        self._told = len(self._lines)
        return self._before

    def judge(self, tally: Tally) -> Vitals:
        """Adds to a campaign's findings what it left behind in the server."""
        self.be_well()
        before = self._before
        after = settled(self._pid, before.descriptors + _DESCRIPTORS, self._settle_s)
        found = {
            f"{after.descriptors - before.descriptors} descriptors are left over": (
                after.descriptors - before.descriptors > _DESCRIPTORS
            ),
            f"{after.threads} threads": after.threads > _THREADS,
            f"memory grew by {after.rss_mib - before.rss_mib:.0f} MiB": (
                after.rss_mib - before.rss_mib > self._grown_mib
            ),
            f"memory grew by {peak_mib(self._pid) - self._peak_before:.0f} MiB for a time": (
                peak_mib(self._pid) - self._peak_before > self._peak_grown_mib
            ),
            "a traceback in the log": any(
                "Traceback" in line for line in self._lines[self._told :]
            ),
        }
        tally.findings.extend(text for text, wrong in found.items() if wrong)
        return after
