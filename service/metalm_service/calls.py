"""A call, from its arrival at a door to its end, and those who are told of it.

What is counted, logged and traced of calls all comes from here: a door begins a call, says what of
it was sent and why it failed, and ends it; each `Watcher` makes of that what it is for.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from metalm_proto.errors import CLIENTS_OWN, ERRORS, InternalError
from metalm_proto.spec import BatchRequest
from metalm_proto.v1 import metalm_pb2 as pb

REQUEST_ID = "x-request-id"
"""The header, or metadata, that carries a call's id in and out."""

SERVICE = pb.DESCRIPTOR.services_by_name["MetaLMService"].full_name
DOORS = ("http", "grpc")
FLOORS, HEALTH, METRICS, PAGE, OTHER = "Floors", "Health", "Metrics", "Page", "Other"
OWN_METHODS = ("Sample", "StreamBatches", "Describe")
"""Those of SERVICE."""
METHODS = (*OWN_METHODS, FLOORS, HEALTH, METRICS, PAGE, OTHER)
"""What a call can be for. PAGE is a file that a page for people consists of; OTHER is whatever else
was asked."""

OK = "OK"
CANCELLED = "CANCELLED"
"""The answer was cut off: the caller left, or the time to drain was over."""
NO_SUCH_METHOD = "NO_SUCH_METHOD"
"""No such path, or no such method of it."""
OUTCOMES = (
    *(OK, CANCELLED, NO_SUCH_METHOD),
    *(error.reason for error in ERRORS if error not in CLIENTS_OWN),
)

_USABLE_ID = re.compile(r"[!-~]{1,64}")


class Watcher:
    """Is told what becomes of calls, in whatever thread it happens."""

    def generated(self, call: Call, seconds: float, cpu_s: float) -> None:
        """A batch is there, `seconds` after it was asked for; or nobody wanted it any more, and
        `seconds` is NaN. `cpu_s`: seconds of one core that it took."""

    def sent(self, call: Call, batches: int, samples: int, tokens: int, size: int) -> None:
        """Batches go to the transport: how many, their samples, their tokens (positions of x and y
        together), their bytes as encoded."""

    def took(self, call: Call, batches: int, seconds: float) -> None:
        """The transport has taken these batches, `seconds` after it was given them."""

    def ended(self, call: Call) -> None:
        """The call has its outcome, and its sums are final."""


class Call:
    """Who asks for what, through which door, and what has become of it.

    `door`: one of DOORS. `method`: one of METHODS. `client`: whom its work is counted for; the
    address it comes from, or the name of the token that it showed. `request_id`: the caller's own,
    or one made up. `parent`: the caller's place in a trace (W3C `traceparent` and `tracestate`).
    `attributes`: what the door knows of it, named as in OpenTelemetry's semantic conventions.
    `request`: once it is known.

    `outcome`: one of OUTCOMES, and `detail` why, if it is not OK. `status`: as the door told it.
    `batches`, `samples`, `tokens`, `bytes`: of the batches that the transport was given.
    `began_ns`: since the epoch. `seconds`: its duration, once it has ended.

    As a context it ends with the block; what is raised in it was a defect, unless `failed` said
    otherwise before.
    """

    def __init__(
        self,
        door: str,
        method: str,
        client: str,
        request_id: str,
        *,
        parent: Mapping[str, str] | None = None,
        attributes: Mapping[str, Any] | None = None,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        self.door = door
        self.method = method
        self.client = client
        self.request_id = request_id
        self.parent = parent or {}
        self.attributes = attributes or {}
        self.request: BatchRequest | None = None
        self.outcome = OK
        self.detail = ""
        self.status: int | str | None = None
        self.batches = self.samples = self.tokens = self.bytes = 0
        self.began_ns = time.time_ns()
        self.seconds = float("nan")
        self._began = time.perf_counter()
        self._watchers = watchers
        # Samples and tokens of the batches that are generated and not sent.
        self._waiting: deque[tuple[int, int]] = deque()
        self._ended = False

    @property
    def is_background(self) -> bool:
        """Whether it is one of those that come by themselves, or by the dozen, and nobody wants a
        line or a span of: probes, scrapes, files of the pages that are there."""
        return self.method in (HEALTH, METRICS) or (self.method == PAGE and self.outcome == OK)

    @contextmanager
    def generating(self, samples: int, tokens: int, asked_at: float) -> Iterator[None]:
        """Around the work for one batch, which was asked for at that time of
        `time.perf_counter`."""
        cpu_began = time.thread_time()
        seconds = float("nan")
        try:
            yield
            seconds = time.perf_counter() - asked_at
            self._waiting.append((samples, tokens))
        finally:
            cpu_s = time.thread_time() - cpu_began
            for watcher in self._watchers:
                watcher.generated(self, seconds, cpu_s)

    @contextmanager
    def sending(self, size: int, batches: int = 1) -> Iterator[None]:
        """Around the handing over of the next batches, which have `size` bytes as encoded.

        They count at once: a caller who has its last byte may end the call before the door hears
        that it went.
        """
        samples = tokens = 0
        for _ in range(batches):
            of_batch = self._waiting.popleft()
            samples += of_batch[0]
            tokens += of_batch[1]
        self.batches += batches
        self.samples += samples
        self.tokens += tokens
        self.bytes += size
        for watcher in self._watchers:
            watcher.sent(self, batches, samples, tokens, size)
        began = time.perf_counter()
        yield
        seconds = time.perf_counter() - began
        for watcher in self._watchers:
            watcher.took(self, batches, seconds)

    def sent(self, messages: Iterator[bytes]) -> Iterator[bytes]:
        """The encoded batches, each counted; it has been taken when the next one is asked for."""
        for message in messages:
            with self.sending(len(message)):
                yield message
            # Not kept while the next one is generated.
            del message

    def failed(self, outcome: str, detail: str = "") -> None:
        """What went wrong; the first to say so knows best."""
        if self.outcome == OK:
            self.outcome = outcome
            self.detail = detail

    def cut_off(self) -> None:
        """It was ended from outside; after the last batch that is nobody's loss."""
        if self.request is None or self.samples < self.request.samples:
            self.failed(CANCELLED)

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            self.seconds = time.perf_counter() - self._began
            for watcher in self._watchers:
                watcher.ended(self)

    def __enter__(self) -> Call:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, GeneratorExit | asyncio.CancelledError):
            self.cut_off()
        elif error is not None:
            self.failed(InternalError.reason)
        self.end()


class Calls:
    """Begins calls; `watchers` are told of them."""

    def __init__(self, *watchers: Watcher) -> None:
        self._watchers = watchers

    def begin(
        self,
        door: str,
        method: str,
        client: str,
        told: Mapping[str, str],
        attributes: Mapping[str, Any] | None = None,
    ) -> Call:
        """`told`: the headers, or metadata, that came with it, by their names in lower case.
        `door`, `method`, `client` and `attributes` as in Call."""
        parent = {name: told[name] for name in ("traceparent", "tracestate") if name in told}
        return Call(
            door,
            method,
            client,
            request_id(told.get(REQUEST_ID)),
            parent=parent,
            attributes=attributes,
            watchers=self._watchers,
        )


def request_id(given: str | None) -> str:
    """The id that a caller gave, or a new one if there is none or it is not fit for a log line."""
    if given is not None and _USABLE_ID.fullmatch(given):
        return given
    return uuid.uuid4().hex


def client_of(address: str) -> str:
    """Whom an address stands for, where nobody needs a token: an IPv4 address for itself, also
    where it is written as IPv6 (RFC 4291, 2.5.5.2), and any other of IPv6 for its network of 64
    bits, of which a host may have all addresses (RFC 4291, 2.5.4)."""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address
    if known.version == 4 or known.is_loopback:
        return str(known)
    if known.ipv4_mapped is not None:
        return str(known.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(known), 64), strict=False))
