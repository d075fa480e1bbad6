"""python -m tests.load [--seconds S]: prints the figures, and fails where one misses its bound."""

from __future__ import annotations

import argparse
import sys

from tests.load.measure import measure


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="for each load [10]")
    seconds = parser.parse_args().seconds
    print("| what | found | bound | |\n|---|---|---|---|")
    missed = 0
    for figure in measure(seconds):
        missed += not figure.holds
        told = "holds" if figure.holds else "**missed**"
        print(f"| {figure.name} | {figure.found} | {figure.bound} | {told} |", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
