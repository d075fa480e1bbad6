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
LONGEST_ASKED_S = 60.0

jitter = random.SystemRandom()
"""The global generator may be seeded by the trainer, the same way on every rank."""


def backoff_s(
    failures: int,
    retry_after_s: float | None = None,
    *,
    longest_s: float = LONGEST_S,
    longest_asked_s: float = LONGEST_ASKED_S,
) -> float:
    """Seconds to wait after so many failures in a row: anything up to a bound that doubles, at most
    `longest_s`.

    Never less than the server asked for, unless that is more than `longest_asked_s`; many clients
    that were told the same spread out.
    """
    wait_s = jitter.uniform(0, min(longest_s, FIRST_S * 2 ** min(failures - 1, 10)))
    if retry_after_s is None:
        return wait_s
    # In this order, what is no number is the bound.
    return wait_s / 2 + max(0.0, min(longest_asked_s, retry_after_s))


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
        """A request went well."""
        with self._lock:
            self._retries = min(self._LARGEST, self._retries + self._A_REQUEST)

    def try_take(self) -> bool:
        """Takes a retry, if there is one."""
        with self._lock:
            self._count()
            if self._retries < 1:
                return False
            self._retries -= 1
            return True

    def wait_s(self) -> float:
        """Seconds until there will be a retry; 0 if there is one."""
        with self._lock:
            self._count()
            return max(0.0, (1 - self._retries) / self._A_SECOND)

    def _count(self) -> None:
        now = time.monotonic()
        earned = (now - self._counted_at) * self._A_SECOND
        self._retries = min(self._LARGEST, self._retries + earned)
        self._counted_at = now
