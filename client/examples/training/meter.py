"""How fast a run is, and how much of its time it waits for data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Of a stretch of training: tokens, seconds in all, and seconds in which nothing but the data
    was waited for."""

    tokens: int = 0
    seconds: float = 0.0
    waited_s: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def waiting(self) -> float:
        """Share of the time, 0 to 1."""
        return self.waited_s / self.seconds if self.seconds else 0.0

    def __add__(self, other: Reading) -> Reading:
        return Reading(
            tokens=self.tokens + other.tokens,
            seconds=self.seconds + other.seconds,
            waited_s=self.waited_s + other.waited_s,
        )


class Meter:
    """A clock on the wall, which runs from its making on.

    A GPU works on behind the program, so a program that waits for a batch need not mean a GPU that
    does: the share of waiting that is told here may be more than the GPU's, but for the copy of a
    batch from pinned memory, some tens of microseconds.
    """

    def __init__(self, device: torch.device) -> None:
        self.total = Reading()
        self._device = device
        self._tokens = 0
        self._waited_s = 0.0
        self._began = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the call that hands out the next batch, and nothing else."""
        began = time.perf_counter()
        yield
        self._waited_s += time.perf_counter() - began

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Around what is no training, such as an evaluation."""
        self._finish()
        began = time.perf_counter()
        yield
        self._began += time.perf_counter() - began

    def count(self, tokens: int) -> None:
        self._tokens += tokens

    def read(self) -> Reading:
        """Since the last reading, when the device has done all that it was given."""
        self._finish()
        now = time.perf_counter()
        reading = Reading(tokens=self._tokens, seconds=now - self._began, waited_s=self._waited_s)
        self.total += reading
        self._tokens, self._waited_s, self._began = 0, 0.0, now
        return reading

    def _finish(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
