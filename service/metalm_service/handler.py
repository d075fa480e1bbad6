"""What the service does with a request, whatever door it came through."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from importlib.metadata import version
from typing import TypeVar

from metalm_proto.batch import Batch
from metalm_proto.description import Description, Limits
from metalm_proto.errors import Draining, Starting
from metalm_proto.spec import BatchRequest, Spec
from metalm_service import limits
from metalm_service.calls import Call
from metalm_service.config import ServerConfig
from metalm_service.core import engine
from metalm_service.fairness import FairTurns, GoneError, Turn
from metalm_service.limits import PLAIN, Encoding
from metalm_service.places import Places

VERSION = version("metalm")

T = TypeVar("T")


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
        # One more than generate: while a batch is on its way, its core has the next one.
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
        reserved = limits.check(self.config, request, encoding)
        with self._lock:
            if self._state is State.STARTING:
                raise Starting("the server is starting: its kernels are not ready", 1.0)
            if self._state is State.DRAINING:
                raise Draining("the server is shutting down", 0.0)
            self._places.take(call.client, reserved)
        return Admission(self, call, request, encoding, reserved)

    def _portion(
        self,
        admission: Admission,
        first: int,
        size: int,
        encode: Callable[[Batch], T],
        wanted: Callable[[], bool],
    ) -> tuple[T, Turn]:
        """One batch, encoded, and the turn that it is still to end."""

        def here() -> bool:
            return not self._abandoned and wanted()

        def proceed() -> None:
            if not here():
                raise CallerGoneError
            turn.pause(here)

        turns = self._text_turns if admission.encoding.holds_the_interpreter else self._turns
        try:
            turn = turns.take(admission.call.client, here)
            try:
                batch = engine.make_batch(admission.request, first, size, proceed)
                encoded = encode(batch)
            except BaseException:
                turn.end()
                raise
        except GoneError:
            raise CallerGoneError from None
        turn.lend()
        return encoded, turn


class Admission:
    """A request that was admitted; gives back what was reserved when it is closed.

    Closing it twice is fine, from any thread.
    """

    def __init__(
        self,
        handler: Handler,
        call: Call,
        request: BatchRequest,
        encoding: Encoding,
        reserved: int,
    ) -> None:
        self.call = call
        self.request = request
        self.encoding = encoding
        self._handler = handler
        self._reserved = reserved
        self._closing = threading.Lock()
        self._on_their_way: deque[Turn] = deque()

    def batches(self, encode: Callable[[Batch], T], wanted: Callable[[], bool]) -> Iterator[T]:
        """The request's batches, in order and encoded.

        `wanted` is asked every few million tokens; CallerGoneError is raised when it says no.
        """
        for first, size in self.request.ranges():
            with self.call.generating(size, size * self.request.spec.L):
                encoded, turn = self._handler._portion(self, first, size, encode, wanted)
            self._on_their_way.append(turn)
            yield encoded
            # Not kept while the next one is generated.
            del encoded

    def taken(self) -> None:
        """The door has handed the next of the batches to its transport, which has taken it."""
        self._on_their_way.popleft().end()

    def close(self) -> None:
        # Taken once and never given back.
        if self._closing.acquire(blocking=False):
            self._handler._places.give_back(self.call.client, self._reserved)
