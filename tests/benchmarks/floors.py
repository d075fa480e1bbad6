"""The speed of the floors on one core: `python -m tests.benchmarks.floors`.

Genie and greedy together count as one prediction of a token.
"""

from __future__ import annotations

import statistics
import time

from metalm_proto.spec import Spec, Split
from metalm_service.core.floors import BRACKET, LADDER, cost_of, losses, warm

SPECS = [Spec(V=64, n=10, l=l, e=0.1, L=4096) for l in (64, 32)]
SAMPLES, ROUNDS = 64, 7


def main() -> None:
    warm()
    for spec in SPECS:
        print(f"V={spec.V} n={spec.n} l={spec.l:g} e={spec.e} L={spec.L}, million tokens a second")
        for names in (BRACKET, *((name,) for name in LADDER)):
            rate = statistics.median(measured(spec, names) for _ in range(ROUNDS))
            said = SAMPLES * spec.L / cost_of(spec, SAMPLES, names).cpu_s / 1e6
            print(f"  {' and '.join(names):18} {rate:6.2f}   at least {said:.2f} by its bound")


def measured(spec: Spec, names: tuple[str, ...]) -> float:
    """Million tokens for each second of CPU."""
    begun = time.process_time()
    losses(spec, 7, Split.TEST, 0, SAMPLES, names)
    return SAMPLES * spec.L / (time.process_time() - begun) / 1e6


if __name__ == "__main__":
    main()
