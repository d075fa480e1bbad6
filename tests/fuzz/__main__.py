"""`python -m tests.fuzz`: the long form; prints a table, and what must not be."""

from __future__ import annotations

import argparse
import sys

from tests.fuzz.campaigns import KINDS, fuzz
from tests.service_process import running

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument(
        "--times", type=int, default=30, help="cases, in multiples of the short form's"
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    findings = []
    print("| campaign                   |    cases | findings | left behind | time | answers |")
    for kind in KINDS:
        with running(*kind.flags) as service:
            result = fuzz(service, kind, given.times, given.seed)
        print(result, flush=True)
        findings += result.tally.findings
    print(*findings, sep="\n")
    sys.exit(bool(findings))
