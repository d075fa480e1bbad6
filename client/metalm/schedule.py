"""Which samples a rank of a run takes at which step: arithmetic, and nothing else.

A run takes the samples start, start + 1, … in order, without those that it skips. Step k takes the
next world_size * batch_size of them, and rank r the r-th batch_size of these. A position is the
index of a sample between two steps, the same for all ranks. It says all there is to say about how
far a run has come, so that it means the same after a change of world_size, batch_size or skip.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from operator import itemgetter

from metalm_proto.errors import InvalidArgument
from metalm_proto.fields import U64, Field
from metalm_proto.spec import BatchRequest

RANK = Field(name="rank", default=0, lower=0, upper=2**31 - 2, doc="this process among the ranks")
WORLD_SIZE = Field(
    name="world_size", default=1, lower=1, upper=2**31 - 1, doc="ranks that share the run"
)
_SKIP_START = Field(name="skip", lower=0, upper=U64, doc="")

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive steps of a run, from `position` to `stop`, as requests.

    Either one request with a batch for each step; or the batch of a single step in parts, because
    skipped samples lie inside of it. No request: the steps have nothing for this rank.
    """

    position: int
    stop: int
    requests: tuple[BatchRequest, ...]
    in_parts: bool = False

    @property
    def steps(self) -> int:
        """Batches that come of it."""
        return 1 if self.in_parts else sum(request.count for request in self.requests)

    def positions(self, schedule: Schedule) -> Iterator[int]:
        """The position behind each step."""
        if self.in_parts or not self.requests:
            yield self.stop
        else:
            for first, _ in self.requests[0].ranges():
                behind = first + (schedule.world_size - schedule.rank) * schedule.batch_size
                yield schedule.settled(behind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The samples [start, stop) without the ranges in `skip`, which are sorted and apart."""

    start: int
    stop: int
    batch_size: int
    rank: int = RANK.default
    world_size: int = WORLD_SIZE.default
    skip: Ranges = ()
    drop_last: bool = False

    def __post_init__(self) -> None:
        WORLD_SIZE.check(self.world_size)
        if RANK.check(self.rank) >= self.world_size:
            bound = f"an integer with 0 <= rank < {self.world_size}, as world_size is"
            raise InvalidArgument("rank", self.rank, bound)

    @property
    def step_samples(self) -> int:
        return self.world_size * self.batch_size

    def settled(self, position: int) -> int:
        """The first sample from `position` on that is not skipped; at most stop."""
        for first, stop in self._skips_from(position):
            if position < first:
                break
            position = stop
        return min(position, self.stop)

    def advanced(self, position: int, samples: int) -> int:
        """The position that is `samples` samples further."""
        for first, stop in self._skips_from(position):
            if position + samples < first:
                break
            samples -= max(0, first - position)
            position = stop
        return self.settled(min(position + samples, self.stop))

    def at(self, step: int) -> int:
        """The position before a step, counted from start; the end, if that is earlier."""
        position = self.advanced(self.settled(self.start), step * self.step_samples)
        return min(position, self.end)

    def ended(self, position: int) -> bool:
        """Whether no step follows."""
        position = self.settled(position)
        if position >= self.stop:
            return True
        return self.drop_last and self._samples(position, self.stop) < self.step_samples

    @property
    def end(self) -> int:
        """The position behind the last step."""
        if not self.drop_last:
            return self.stop
        begin = self.settled(self.start)
        whole = self._samples(begin, self.stop) // self.step_samples
        return self.advanced(begin, whole * self.step_samples)

    def dealt(self, worker: int, workers: int) -> Schedule:
        """What one of several workers of this rank takes: its steps worker, worker + workers, …

        These are the steps of a rank among workers * world_size ranks.
        """
        # Workers together have larger steps, of which the last whole one may end earlier.
        return replace(
            self,
            stop=self.end,
            drop_last=False,
            rank=worker * self.world_size + self.rank,
            world_size=workers * self.world_size,
        )

    def window(self, template: BatchRequest, position: int, steps: int) -> Window:
        """The next steps from a settled position on, at most `steps`, but at least one."""
        clear = self._clear_until(position)
        whole = min(steps, (clear - position) // self.step_samples)
        if not whole:
            stop = self.advanced(position, self.step_samples)
            parts = tuple(self._requests(template, position))
            return Window(position, stop, parts, in_parts=True)
        first = position + self.rank * self.batch_size
        stop = position + whole * self.step_samples
        request = replace(
            template,
            start=first,
            stop=first + (whole - 1) * self.step_samples + self.batch_size,
            batch_size=self.batch_size,
            stride=self.step_samples,
        )
        return Window(position, self.settled(stop), (request,))

    def _requests(self, template: BatchRequest, position: int) -> Iterator[BatchRequest]:
        """This rank's batch of the step at `position`, a request for each part of it."""
        first = self.advanced(position, self.rank * self.batch_size)
        wanted = self.batch_size
        while wanted and first < self.stop:
            stop = min(first + wanted, self._clear_until(first))
            size = stop - first
            yield replace(template, start=first, stop=stop, batch_size=size, stride=size)
            wanted -= size
            first = self.settled(stop)

    def _samples(self, position: int, stop: int) -> int:
        """Samples in [position, stop) that are not skipped."""
        samples = stop - position
        for first, last in self._skips_from(position):
            if first >= stop:
                break
            samples -= max(0, min(last, stop) - max(first, position))
        return samples

    def _clear_until(self, position: int) -> int:
        """Where the next skipped range begins, or the run ends."""
        return min(self.stop, next((first for first, _ in self._skips_from(position)), self.stop))

    def _skips_from(self, position: int) -> Iterator[tuple[int, int]]:
        """The skipped ranges that do not end before `position`."""
        # They may be many: none is copied.
        begin = bisect_right(self.skip, position, key=itemgetter(1))
        return map(self.skip.__getitem__, range(begin, len(self.skip)))


def merged_ranges(skip: Iterable[range | tuple[int, int]]) -> Ranges:
    """Ranges of samples, (start, stop) or `range`, sorted and apart. Raises InvalidArgument."""
    pairs = []
    for given in skip:
        if isinstance(given, range) and given.step != 1:
            raise InvalidArgument("skip", given, "ranges of step 1")
        pair = (given.start, given.stop) if isinstance(given, range) else given
        try:
            first, stop = (_SKIP_START.check(value) for value in pair)
        except (TypeError, ValueError):
            raise InvalidArgument("skip", given, "pairs (start, stop) of samples") from None
        if stop < first:
            raise InvalidArgument("skip", given, f"pairs (start, stop) with start <= stop <= {U64}")
        if first < stop:
            pairs.append((first, stop))
    merged: list[tuple[int, int]] = []
    for first, stop in sorted(pairs):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((first, stop))
    return tuple(merged)
