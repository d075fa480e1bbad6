"""What the service does with a request, whatever door it came through."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from importlib.metadata import version
from itertools import islice
from typing import Protocol, TypeVar

from metalm_proto.batch import Batch, Tokens
from metalm_proto.description import Description, Limits
from metalm_proto.errors import Draining, Starting
from metalm_proto.spec import BatchRequest, Spec
from metalm_service import limits
from metalm_service.calls import Call
from metalm_service.config import ServerConfig
from metalm_service.core import engine
from metalm_service.fairness import FairTurns, GoneError, Turn
from metalm_service.limits import PLAIN, Allowance, Encoding
from metalm_service.places import Places

VERSION = version("metalm")

W_co = TypeVar("W_co", covariant=True)

Portion = Sequence[tuple[int, int]]
"""(first, size) of the batches that are made in one turn."""


class Writer(Protocol[W_co]):
    """Makes of a portion's batches what is sent."""

    def room(self) -> tuple[Tokens, Tokens] | None:
        """Where x and y of the next batch, each [B, L], are to be made, if it matters."""

    def add(self, batch: Batch) -> None:
        """The next batch is there."""

    def written(self) -> W_co:
        """What is sent of them."""


class State(Enum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class CallerGoneError(Exception):
    """There is nobody left to generate for."""


class Handler:
    """Admits requests within the limits of `config`, and generates their batches.

    Thread-safe.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self._lock = threading.Lock()
        # One more than generate: while batches are on their way, their core has the next ones.
        self._turns = FairTurns(config.threads + 1)
        # One at a time: many would leave the doors, and the probes, no time at all.
        self._text_turns = FairTurns(1)
        self._state = State.STARTING
        self._abandoned = False
        self._places = Places(
            config.max_requests, config.max_inflight_bytes, config.max_client_share
        )

    @property
    def state(self) -> State:
        return self._state

    @property
    def requests(self) -> int:
        """How many were admitted and are not over."""
        return self._places.requests

    @property
    def inflight_bytes(self) -> int:
        """Bytes that are reserved for them."""
        return self._places.bytes

    def come_again_s(self, client: str) -> float:
        """After how many seconds a client is to come again whom the door has to turn away."""
        return self._places.come_again_s(client)

    def warm(self) -> None:
        """Makes the kernels ready; from then on requests are admitted."""
        engine.warm()
        with self._lock:
            if self._state is State.STARTING:
                self._state = State.READY

    def drain(self) -> None:
        """Admits no more requests; those that run go on."""
        with self._lock:
            self._state = State.DRAINING

    def abandon(self) -> None:
        """Ends the work of all requests that still run."""
        self._abandoned = True

    def describe(self, spec: Spec | None) -> Description:
        """Generators, limits, version; of a spec the token ids, and how far it may go."""
        return Description(
            version=VERSION,
            engine=engine.engine_name(),
            limits=Limits(
                max_message_bytes=self.config.max_message_bytes,
                max_request_samples=self.config.max_request_samples,
                max_inflight_bytes=self.config.max_inflight_bytes,
                max_request_cpu_s=self.config.max_request_cpu_s,
            ),
            spec=spec,
            reach=None if spec is None else limits.reach(self.config, spec),
        )

    def admit(self, call: Call, request: BatchRequest, encoding: Encoding = PLAIN) -> Admission:
        """Reserves what the call's request will need, before anything of it is allocated.

        `encoding`: what the form of the answer costs.

        Raises LimitExceeded, Overloaded, Starting or Draining.
        """
        call.request = request
        allowance = limits.check(self.config, request, encoding)
        with self._lock:
            if self._state is State.STARTING:
                raise Starting("the server is starting: its kernels are not ready", 1.0)
            if self._state is State.DRAINING:
                raise Draining("the server is shutting down", 0.0)
            self._places.take(call.client, allowance.reserved_bytes)
        return Admission(self, call, request, encoding, allowance)


class Admission:
    """A request that was admitted; gives back what was reserved when it is closed.

    Its batches are made in portions, each in one turn at the cores. Closing it twice is fine, from
    any thread.
    """

    def __init__(
        self,
        handler: Handler,
        call: Call,
        request: BatchRequest,
        encoding: Encoding,
        allowance: Allowance,
    ) -> None:
        self.call = call
        self.request = request
        self._handler = handler
        self._allowance = allowance
        self._turns = handler._text_turns if encoding.holds_the_interpreter else handler._turns
        self._closing = threading.Lock()
        self._on_their_way: deque[Turn] = deque()

    def portions(self) -> Iterator[Portion]:
        """All batches of the request, in order. The first one is alone: somebody waits for it."""
        ranges = self.request.ranges()
        yield [next(ranges)]
        while portion := list(islice(ranges, self._allowance.batches_in_turn)):
            yield portion

    def make(
        self, portion: Portion, writer: Callable[[], Writer[W_co]], wanted: Callable[[], bool]
    ) -> W_co:
        """What a writer makes of the batches of a portion. Their turn, which is waited for, ends
        when that is `taken`, or if one cannot be made.

        `wanted` is asked every few million tokens, and while it waits; CallerGoneError is raised
        when it says no.
        """
        try:
            turn = self._turns.take(self.call.client, self._here(wanted))
        except GoneError:
            raise CallerGoneError from None
        return self._make(turn, portion, writer, wanted)

    def ask(
        self,
        portion: Portion,
        writer: Callable[[], Writer[W_co]],
        wanted: Callable[[], bool],
        begin: Callable[[Callable[[], W_co]], object],
    ) -> Callable[[], bool]:
        """The same without waiting: when the turn has come, `begin` is given what makes the
        batches, in any thread and perhaps before this returns.

        The answer is called to withdraw; it says whether the turn had not come, and never will.
        """
        turn = self._turns.ask(
            self.call.client,
            lambda turn: begin(lambda: self._make(turn, portion, writer, wanted)),
        )
        return turn.withdraw

    def taken(self) -> None:
        """The door has handed the next of the portions to its transport, which has taken it."""
        self._on_their_way.popleft().end()

    def close(self) -> None:
        # Taken once and never given back.
        if self._closing.acquire(blocking=False):
            self._handler._places.give_back(self.call.client, self._allowance.reserved_bytes)

    def _make(
        self,
        turn: Turn,
        portion: Portion,
        new_writer: Callable[[], Writer[W_co]],
        wanted: Callable[[], bool],
    ) -> W_co:
        here = self._here(wanted)

        def proceed() -> None:
            if not here():
                raise CallerGoneError
            turn.pause(here)

        asked_at = turn.asked_at
        try:
            writer = new_writer()
            for first, size in portion:
                with self.call.generating(size, size * self.request.spec.L, asked_at):
                    room = writer.room()
                    writer.add(engine.make_batch(self.request, first, size, proceed, room))
                asked_at = time.perf_counter()
            written = writer.written()
        except GoneError:
            turn.end()
            raise CallerGoneError from None
        except BaseException:
            turn.end()
            raise
        self._on_their_way.append(turn)
        turn.lend()
        return written

    def _here(self, wanted: Callable[[], bool]) -> Callable[[], bool]:
        return lambda: not self._handler._abandoned and wanted()
