"""All ways to fuzz a server, and what is looked at behind each."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.fuzz import bounds, frames, http1, messages, openapi
from tests.fuzz.target import Tally, Target
from tests.service_process import Service
from tests.vitals import Vitals

Campaign = Callable[[Target, int, random.Random], Tally]


@dataclass(frozen=True, slots=True)
class Kind:
    """A campaign. `cases`: in the short form. `flags`: of the server."""

    run: Campaign
    cases: int
    flags: tuple[str, ...] = ()


KINDS = (
    Kind(openapi.openapi, 60, openapi.FLAGS),
    Kind(bounds.bounds, 60),
    Kind(http1.malformed, len(http1.known()) + 16),
    Kind(messages.messages, 300),
    Kind(messages.strangers, 100),
    Kind(messages.sizes, 8),
    Kind(messages.paths, 60),
    Kind(frames.floods, len(frames.FLOODS)),
    Kind(frames.wrong, 4 * len(frames.WRONG)),
)


@dataclass(frozen=True, slots=True)
class Result:
    tally: Tally
    seconds: float
    before: Vitals
    after: Vitals

    def __str__(self) -> str:
        answers = ", ".join(f"{n} {answer}" for answer, n in self.tally.answers.most_common(6))
        grown = self.after.rss_mib - self.before.rss_mib
        return (
            f"| {self.tally.name:<26} | {self.tally.cases:>8,} | {len(self.tally.findings):>8} "
            f"| {grown:>+6.1f} MiB, {self.after.descriptors - self.before.descriptors:+} descriptors "
            f"| {self.seconds:>6.1f} s | {answers} |"
        )


def fuzz(service: Service, kind: Kind, times: int, seed: int, settle_s: float = 30) -> Result:
    """A campaign of `times` the cases of its short form."""
    target = Target(service, settle_s=settle_s)
    before, began = target.begin(), time.monotonic()
    tally = kind.run(target, times * kind.cases, random.Random(seed))
    seconds = time.monotonic() - began
    return Result(tally, seconds, before, target.judge(tally))
