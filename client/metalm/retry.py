"""When to try again: exponential back-off with full jitter, and a budget of retries.

After M. Brooker, Exponential Backoff and Jitter (AWS Architecture Blog, 2015), and the retry
throttling of gRPC (proposal A6): when a whole service is in trouble, its clients together must not
add to it.
"""

from __future__ import annotations

import random
import threading
import time

FIRST_S = 0.05
LONGEST_S = 4.0

jitter = random.SystemRandom()
"""The global generator may be seeded by the trainer, the same way on every rank."""


def backoff_s(
    failures: int, retry_after_s: float | None = None, *, longest_s: float = LONGEST_S
) -> float:
    """Seconds to wait after so many failures in a row: anything up to a bound that doubles.

    Never less than the server asked for; many clients that were told the same spread out.
    """
    wait_s = jitter.uniform(0, min(longest_s, FIRST_S * 2 ** min(failures - 1, 10)))
    return wait_s if retry_after_s is None else wait_s / 2 + retry_after_s


class RetryBudget:
    """At most one retry for every ten requests that went well, and one a second beside.

    Thread-safe.
    """

    _LARGEST = 10.0
    _A_REQUEST = 0.1
    _A_SECOND = 1.0

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._retries = 1.0
        self._counted_at = time.monotonic()

    def succeeded(self) -> None:
        with self._lock:
            self._retries = min(self._LARGEST, self._retries + self._A_REQUEST)

    def take(self) -> float:
        """Takes a retry and returns 0, or the seconds until there will be one."""
        with self._lock:
            now = time.monotonic()
            earned = (now - self._counted_at) * self._A_SECOND
            self._retries = min(self._LARGEST, self._retries + earned)
            self._counted_at = now
            if self._retries >= 1:
                self._retries -= 1
                return 0.0
            return (1 - self._retries) / self._A_SECOND
