"""What the service does with a request, whatever door it came through."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from enum import Enum
from importlib.metadata import version

from metalm_proto.batch import Batch
from metalm_proto.description import Description, Limits
from metalm_proto.errors import Draining, LimitExceeded, Overloaded, Starting
from metalm_proto.spec import BatchRequest, Spec
from metalm_service.calls import Call
from metalm_service.config import COPIES, ServerConfig
from metalm_service.core import engine

VERSION = version("metalm")


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
        self._generating = threading.Semaphore(config.threads)
        self._state = State.STARTING
        self._abandoned = False
        self._inflight_bytes = 0
        self._requests = 0

    @property
    def state(self) -> State:
        return self._state

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
        """Generators, limits, version, and the token ids of a spec."""
        limits = Limits(
            max_message_bytes=self.config.max_message_bytes,
            max_request_samples=self.config.max_request_samples,
            max_inflight_bytes=self.config.max_inflight_bytes,
        )
        return Description(version=VERSION, engine=engine.engine_name(), limits=limits, spec=spec)

    def admit(self, call: Call, request: BatchRequest, weight: int = 1) -> Admission:
        """Reserves what the call's request will need, before anything of it is allocated.

        `weight`: bytes that the form of the answer takes for each byte of arrays.

        Raises LimitExceeded, Overloaded, Starting or Draining.
        """
        config = self.config
        if request.samples > config.max_request_samples:
            bound = f"at most {config.max_request_samples} in one request to this server"
            raise LimitExceeded("samples", request.samples, bound)
        message_bytes = weight * engine.batch_bytes(request)
        if message_bytes > config.max_message_bytes:
            bound = (
                f"smaller (or L, n or provenance): a batch would take {message_bytes} bytes and "
                f"this server sends at most {config.max_message_bytes}"
            )
            raise LimitExceeded("batch_size", request.largest_batch, bound)
        reserved = COPIES * message_bytes
        with self._lock:
            if self._state is State.STARTING:
                raise Starting("the server is starting: its kernels are not ready", 1.0)
            if self._state is State.DRAINING:
                raise Draining("the server is shutting down", 0.0)
            if self._requests >= config.max_requests:
                raise Overloaded(
                    f"the server has {self._requests} requests, as many as it takes", 1.0
                )
            if self._inflight_bytes + reserved > config.max_inflight_bytes:
                raise Overloaded(
                    f"the request needs {reserved} bytes, and {self._inflight_bytes} of "
                    f"{config.max_inflight_bytes} are in flight",
                    1.0,
                )
            self._inflight_bytes += reserved
            self._requests += 1
        return Admission(self, call, request, reserved)

    def _generate(
        self, request: BatchRequest, first: int, size: int, wanted: Callable[[], bool]
    ) -> Batch:
        def proceed() -> None:
            if self._abandoned or not wanted():
                raise CallerGoneError

        with self._generating:
            return engine.make_batch(request, first, size, proceed)

    def _release(self, reserved: int) -> None:
        with self._lock:
            self._inflight_bytes -= reserved
            self._requests -= 1


class Admission:
    """A request that was admitted; gives back what was reserved when it is closed.

    Closing it twice is fine, from any thread.
    """

    def __init__(self, handler: Handler, call: Call, request: BatchRequest, reserved: int) -> None:
        self.call = call
        self.request = request
        self._handler = handler
        self._reserved = reserved
        self._closing = threading.Lock()

    def batches(self, wanted: Callable[[], bool]) -> Iterator[Batch]:
        """The request's batches, in order.

        `wanted` is asked every few million tokens; CallerGoneError is raised when it says no.
        """
        for first, size in self.request.ranges():
            yield self._handler._generate(self.request, first, size, wanted)

    def close(self) -> None:
        # Taken once and never given back.
        if self._closing.acquire(blocking=False):
            self._handler._release(self._reserved)
