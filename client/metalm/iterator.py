"""A cursor over the samples of a run."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from metalm.failover import FailoverTransport
from metalm.prefetch import Prefetcher
from metalm.schedule import Schedule
from metalm.windows import Direct
from metalm_proto.batch import Batch
from metalm_proto.errors import InvalidArgument
from metalm_proto.fields import U64, Field
from metalm_proto.spec import SEED, BatchRequest

_STATE_VERSION = 1
_POSITION = Field(name="position", lower=0, upper=U64, doc="first sample not yet seen")
STEP = Field(name="step", default=0, lower=0, upper=U64, doc="batches of this rank before it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetching:
    """How batches are fetched; of no influence on what they are.

    prefetch_bytes: bytes that are fetched in the background before they are asked for; 0: none.
    hedge: whether a window that is late is asked of a second endpoint as well.
    """

    prefetch_bytes: int
    hedge: bool


class BatchIterator(Iterator[Batch]):
    """A rank's batches of a run, in order, each verified before it is handed out.

    `position`: index of the first sample that the run has not yet seen, the same on every rank; a
    run that starts there goes on exactly where this one stopped, whatever its number of ranks, its
    batch size, its service. `seed`: names the stream. Not thread-safe.

    Whatever `next` raises, the iterator stands where it was and can be asked again.
    """

    def __init__(
        self,
        transport: Callable[[], FailoverTransport],
        template: BatchRequest,
        schedule: Schedule,
        fetching: Fetching,
        *,
        seed_was_drawn: bool = False,
    ) -> None:
        self.position = schedule.settled(schedule.start)
        self._transport = transport
        self._template = template
        self._schedule = schedule
        self._fetching = fetching
        self._seed_was_drawn = seed_was_drawn
        self._source: Direct | Prefetcher | None = None
        self._process = os.getpid()
        self._finalizer: weakref.finalize[..., Any] | None = None

    @property
    def seed(self) -> int:
        """Names the stream, 0 <= seed < 2**64; the one that was drawn where none was given."""
        return self._template.seed

    def __next__(self) -> Batch:
        """This rank's next batch: x and y of shape [batch_size, L].

        Raises StopIteration at the end, Unavailable where nothing heals for the client's
        `timeout_s`, any other MetaLMError, and RuntimeError if the client is closed.
        """
        try:
            step = self._open(self._transport()).following()
        except BaseException:
            self.close()
            raise
        if step is None:
            self.close()
            # A rank without a part of the last step has seen none of it. What drop_last leaves
            # was not seen by anybody.
            if not self._schedule.drop_last:
                self.position = max(self.position, self._schedule.stop)
            raise StopIteration
        batch, self.position = step
        return batch

    def at(self, step: int) -> Batch:
        """This rank's batch of a step, counted from `start` on: what the run saw, or will see.

        The iterator stays where it is. Raises InvalidArgument for a step behind the run's end.
        """
        position = self._schedule.at(STEP.check(step))
        found = Direct(self._transport(), self._schedule, self._template, position)
        try:
            batch = found.following()
        finally:
            found.close()
        if batch is None:
            bound = "a step before the end of the run, with a batch for this rank"
            raise InvalidArgument("step", step, bound)
        return batch[0]

    def position_at(self, step: int) -> int:
        """The position before a step, counted from `start` on; where the run ends, if earlier."""
        return self._schedule.at(STEP.check(step))

    def dealt(self, worker: int, workers: int) -> BatchIterator:
        """One of several iterators that deal out this one's batches from `start` on.

        Worker w of W has the batches w, w + W, …; read in turn, they give the batches of this one.
        Its steps, and with them its position, are those of W times as many ranks.
        """
        return BatchIterator(
            self._transport,
            self._template,
            self._schedule.dealt(worker, workers),
            self._fetching,
            seed_was_drawn=self._seed_was_drawn,
        )

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, as plain JSON types, below 1 KiB: which stream it is, and the
        position."""
        return {"version": _STATE_VERSION, **self._stream(), "position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where the iterator that gave the state stood.

        Its ranks, batch size, prefetching, endpoints and skipped samples may be others. Raises
        InvalidArgument, naming the difference, if it is of another spec, seed, split or generator;
        a seed that was drawn gives way to the state's.
        """
        if not isinstance(state, Mapping) or state.get("version") != _STATE_VERSION:
            version = state.get("version") if isinstance(state, Mapping) else state
            raise InvalidArgument("state version", version, str(_STATE_VERSION))
        stream = self._stream()
        if self._seed_was_drawn:
            stream.pop("seed")
        for name, mine in stream.items():
            _same(name, state.get(name), mine)
        position = _POSITION.check(state.get("position"))
        template = self._template
        if self._seed_was_drawn:
            template = replace(template, seed=SEED.check(state.get("seed")))
        self.close()
        self._template = template
        self.position = self._schedule.settled(position)

    def close(self) -> None:
        """Ends what is under way; the iterator may go on, with a new request."""
        source, self._source = self._source, None
        if self._finalizer is not None:
            self._finalizer.detach()
            self._finalizer = None
        # That of a parent is the parent's, and so are its threads.
        if source is not None and self._process == os.getpid():
            source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, transport: FailoverTransport) -> Direct | Prefetcher:
        if self._process != os.getpid():
            self.close()
            self._process = os.getpid()
        if self._source is None:
            if not self._fetching.prefetch_bytes:
                self._source = Direct(transport, self._schedule, self._template, self.position)
            else:
                self._source = Prefetcher(
                    transport,
                    self._schedule,
                    self._template,
                    self.position,
                    limit_bytes=self._fetching.prefetch_bytes,
                    hedge=self._fetching.hedge,
                )
                # Left in the middle, by a break or an exception: nobody else would end it.
                self._finalizer = weakref.finalize(self, self._source.leave)
                self._finalizer.atexit = False
        return self._source

    def _stream(self) -> dict[str, Any]:
        request = self._template
        return {
            "generator": request.generator,
            "spec": request.spec.as_dict(),
            "seed": request.seed,
            "split": str(request.split),
        }


def _same(name: str, found: object, mine: object) -> None:
    """Raises InvalidArgument that names what differs, inside of the spec too."""
    if isinstance(found, Mapping) and isinstance(mine, Mapping):
        for key in dict.fromkeys((*mine, *found)):
            _same(f"{name}.{key}", found.get(key), mine.get(key))
    elif found != mine:
        raise InvalidArgument(f"state {name}", found, f"{mine}, as in this run")
