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
from metalm_service.config import ServerConfig
from metalm_service.core import engine

BATCHES_PER_STREAM = 2
"""A stream has at most one batch in work and one on its way out."""

VERSION = version("metalm")


class State(Enum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Handler:
    """Admits requests within the limits of `config`, and generates their batches.

    Thread-safe.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self._lock = threading.Lock()
        self._state = State.STARTING
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

    def describe(self, spec: Spec | None) -> Description:
        """Generators, limits, version, and the token ids of a spec."""
        limits = Limits(
            max_message_bytes=self.config.max_message_bytes,
            max_request_samples=self.config.max_request_samples,
            max_inflight_bytes=self.config.max_inflight_bytes,
        )
        return Description(version=VERSION, engine=engine.engine_name(), limits=limits, spec=spec)

    def admit(self, request: BatchRequest) -> Admission:
        """Reserves what the request will need, before anything of it is allocated.

        Raises LimitExceeded, Overloaded, Starting or Draining.
        """
        config = self.config
        if request.samples > config.max_request_samples:
            bound = f"such that stop - start <= {config.max_request_samples}, this server's limit"
            raise LimitExceeded("stop", request.stop, bound)
        message_bytes = engine.batch_bytes(request)
        if message_bytes > config.max_message_bytes:
            bound = (
                f"smaller (or L, n or provenance): a batch would be {message_bytes} bytes and "
                f"this server sends at most {config.max_message_bytes}"
            )
            raise LimitExceeded("batch_size", request.largest_batch, bound)
        batches = min(BATCHES_PER_STREAM, -(-request.samples // request.batch_size))
        reserved = batches * message_bytes
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
        return Admission(request, lambda: self._release(reserved))

    def _release(self, reserved: int) -> None:
        with self._lock:
            self._inflight_bytes -= reserved
            self._requests -= 1


class Admission:
    """A request that was admitted; gives back what was reserved when it is closed."""

    def __init__(self, request: BatchRequest, release: Callable[[], None]) -> None:
        self.request = request
        self._release: Callable[[], None] | None = release

    def batches(self, proceed: Callable[[], None] | None = None) -> Iterator[Batch]:
        """The request's batches, in order; `proceed` may raise to end the work."""
        for first, size in self.request.ranges():
            yield engine.make_batch(self.request, first, size, proceed)

    def close(self) -> None:
        release, self._release = self._release, None
        if release is not None:
            release()

    def __enter__(self) -> Admission:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
