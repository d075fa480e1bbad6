"""What was found, and how it is told."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Literal

State = Literal["ok", "note", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`state`: "wrong" where training would not work, "note" where it is worth a look. `place`: the
    URL, with the address where it has several. `mend`: what to do about it, empty for "ok"."""

    check: str
    place: str
    state: State
    text: str
    mend: str = ""


class Stop(Exception):
    """A finding that leaves nothing to look at behind it."""

    def __init__(self, check: str, place: str, text: str, mend: str) -> None:
        self.finding = Finding(check, place, "wrong", text, mend)
        super().__init__(text)


def as_lines(findings: Iterable[Finding]) -> Iterator[str]:
    """For people, as they come."""
    place = None
    for finding in findings:
        if finding.place != place:
            place = finding.place
            yield place
        yield f"  {finding.state:<6} {finding.check:<11} {finding.text}"
        if finding.mend:
            yield f"  {'':<6} {'':<11} -> {finding.mend}"


def as_json(findings: Iterable[Finding]) -> str:
    found = list(findings)
    return json.dumps(
        {"well": is_well(found), "findings": [asdict(one) for one in found]}, indent=2
    )


def is_well(findings: Iterable[Finding]) -> bool:
    return all(finding.state != "wrong" for finding in findings)
