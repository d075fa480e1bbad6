"""The endpoints behind a client's URLs: which there are, and which are well."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Collection, Sequence
from functools import partial

from metalm.credentials import NOBODY, Credentials
from metalm.endpoint import Endpoint, Kind
from metalm.hosts import Host
from metalm.retry import LONGEST_ASKED_S, LONGEST_S, RetryBudget, backoff_s, jitter
from metalm.transports import checked_url, connect
from metalm.transports.base import Transport
from metalm_proto.errors import MetaLMError, Unavailable, Unreachable
from metalm_proto.spec import BatchRequest, Spec

_PROBE_S = 3.0
_KINDS = 64
"""Of requests, the last ones of which an endpoint took less at a time than was asked for."""
_FALLBACK_BATCHES = 4
"""At a time, so that a service that returns is taken up again soon."""

_log = logging.getLogger("metalm")


class Endpoints:
    """Chooses an endpoint for each request. Thread-safe.

    An endpoint that failed is left alone for a while, longer each time. Then a thread asks it for a
    little, and requests go to it again if it answers; where no endpoint is well, a request tries.
    With `fallback` requests go to this process where no endpoint is well, until one is again.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        timeout_s: float,
        fallback: bool,
        credentials: Credentials = NOBODY,
    ) -> None:
        """Raises InvalidArgument. Nothing is sent or looked up yet."""
        for url in urls:
            credentials.check(url, checked_url(url))
        self.budget = RetryBudget()
        self._timeout_s = timeout_s
        # Nobody gives up before he has tried.
        self._backoff_s = partial(
            backoff_s,
            longest_s=min(LONGEST_S, timeout_s / 4),
            longest_asked_s=min(LONGEST_ASKED_S, timeout_s / 4),
        )
        self._connect: Callable[..., Transport] = partial(
            connect, timeout_s=timeout_s, credentials=credentials
        )
        self._hosts = {Host(url): dict[str, Endpoint]() for url in dict.fromkeys(urls)}
        self._fallback: Endpoint | None = None
        if fallback:
            here = "inprocess:"
            self._fallback = Endpoint(here, self._connect(here), max_batches=_FALLBACK_BATCHES)
        self._changed = threading.Condition()
        self._probing = False
        self._outage = False
        self._closed = False

    def acquire(self, give_up_at: float, wanted: Callable[[], bool]) -> Endpoint:
        """The endpoint for a request, waited for until `give_up_at`; to be released.

        Raises Unavailable with what each endpoint said, and as soon as it is not `wanted` any more
        and somebody calls `wake`.
        """
        while True:
            self._refresh()
            with self._changed:
                if self._closed or not wanted():
                    raise Unavailable("the request was closed")
                if (chosen := self._choose()) is not None:
                    return chosen
                now = time.monotonic()
                if now >= give_up_at:
                    raise Unavailable(self.told())
                next_due = min((endpoint.due for endpoint in self._all()), default=now + 1)
                self._changed.wait(max(0.0, min(next_due, give_up_at) - now))

    def another(self, than: Endpoint) -> Endpoint | None:
        """An endpoint that is well, other than the given one, at once or not at all."""
        with self._changed:
            return self._least_used([e for e in self._all() if e is not than and not e.failures])

    def has_others(self, than: Collection[Endpoint]) -> bool:
        """Whether an endpoint other `than` those that will never do may still give an answer: one
        where somebody ever was, or that was not tried yet. With a fallback, any."""
        with self._changed:
            others = [endpoint for endpoint in self._all() if endpoint not in than]
            return any(self._fallback or other.known or not other.failures for other in others)

    def batches_taken(self, endpoint: Endpoint, kind: Kind) -> int:
        """As many batches as the endpoint is to be asked for at a time."""
        with self._changed:
            return endpoint.taken.get(kind, endpoint.max_batches)

    def takes_less(self, endpoint: Endpoint, kind: Kind, batches: int) -> None:
        """It refused a request of this kind for more `batches` than that."""
        with self._changed:
            endpoint.taken.pop(kind, None)
            endpoint.taken[kind] = batches
            if len(endpoint.taken) > _KINDS:
                del endpoint.taken[next(iter(endpoint.taken))]

    def release(self, endpoint: Endpoint) -> None:
        """Gives back what `acquire` or `another` gave; closes it if it is no address any more."""
        with self._changed:
            endpoint.in_flight -= 1
            gone = endpoint.leaving and not endpoint.in_flight
        if gone:
            endpoint.transport.close()

    def succeeded(self, endpoint: Endpoint, begun_at: float) -> None:
        """It gave what it was asked for at that time (on the monotonic clock)."""
        self.budget.succeeded()
        # What was on its way before an endpoint failed says nothing about it now.
        if endpoint is self._fallback or begun_at < endpoint.failed_at:
            return
        with self._changed:
            endpoint.known = True
            if self._outage:
                self._outage = False
                _log.warning("%s answers again", endpoint.name)
            if endpoint.failures:
                endpoint.failures, endpoint.due = 0, 0.0
                self._changed.notify_all()

    def failed(self, endpoint: Endpoint, error: MetaLMError) -> None:
        """It gave an error in place of what was asked for: it is left alone for a while, for as
        long as the error asks for within bounds, and its host's name is looked up again."""
        with self._changed:
            endpoint.failures += 1
            endpoint.said = str(error).removeprefix(endpoint.name).removeprefix(": ")
            asked_s = getattr(error, "retry_after_s", None)
            endpoint.failed_at = time.monotonic()
            endpoint.due = endpoint.failed_at + self._backoff_s(endpoint.failures, asked_s)
            endpoint.known |= not isinstance(error, Unreachable)
            _log.info("%s: %s", endpoint.name, endpoint.said)
            if not self._outage and all(other.failures for other in self._all()):
                self._outage = True
                goes_on = f"trying again for {self._timeout_s:g} s"
                if self._fallback:
                    goes_on = "its batches are generated in this process until one does"
                _log.warning("no endpoint is well, %s: %s", goes_on, self.told())
        # The name may stand for another address by now.
        self._refresh(sooner=True)

    def pause(self, seconds: float, wanted: Callable[[], bool]) -> None:
        """Waits, but not longer than it is wanted."""
        until = time.monotonic() + seconds
        with self._changed:
            while not self._closed and wanted() and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)

    def wake(self) -> None:
        """Makes those who wait look whether they are still wanted."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            endpoints = self._all()
        for endpoint in endpoints:
            endpoint.transport.close()

    def told(self) -> str:
        """What is wrong with each endpoint, as far as is known."""
        said = [f"{host.url}: {host.said}" for host in self._hosts if host.said]
        with self._changed:
            said += [f"{endpoint.name}: {endpoint.said}" for endpoint in self._all()]
        return "; ".join(said)

    def _all(self) -> list[Endpoint]:
        return [endpoint for found in self._hosts.values() for endpoint in found.values()]

    def _choose(self) -> Endpoint | None:
        now = time.monotonic()
        endpoints = self._all()
        if self._fallback and all(endpoint.failures for endpoint in endpoints):
            self._probe()
            return self._least_used([self._fallback])
        well = [endpoint for endpoint in endpoints if not endpoint.failures]
        if 0 < len(well) < len(endpoints):
            self._probe()
        chosen = self._least_used(well or [e for e in endpoints if e.due <= now])
        if chosen is not None and chosen.failures:
            # One of all who wait for it tries, the others see what becomes of it.
            chosen.due = now + self._backoff_s(chosen.failures)
        return chosen

    def _least_used(self, endpoints: Sequence[Endpoint]) -> Endpoint | None:
        # Among equals by chance, so that trainers spread out.
        order = partial(jitter.uniform, 0, 1)
        chosen = min(endpoints, key=lambda endpoint: (endpoint.in_flight, order()), default=None)
        if chosen is not None:
            chosen.in_flight += 1
        return chosen

    def _refresh(self, *, sooner: bool = False) -> None:
        """Brings the endpoints up to date with the names of their hosts."""
        for host, endpoints in self._hosts.items():
            addresses = host.addresses(sooner=sooner)
            if endpoints.keys() == set(addresses):
                continue
            idle = []
            with self._changed:
                if self._closed:
                    return  # else nobody would close what is made now
                for address in set(endpoints) - set(addresses):
                    endpoint = endpoints.pop(address)
                    endpoint.leaving = True
                    if not endpoint.in_flight:
                        idle.append(endpoint)
                for address in addresses:
                    if address not in endpoints:
                        name = f"{host.url} ({address})" if len(addresses) > 1 else host.url
                        transport = self._connect(host.url, address=address or None)
                        endpoints[address] = Endpoint(name, transport)
                self._changed.notify_all()
            for endpoint in idle:
                endpoint.transport.close()

    def _probe(self) -> None:
        if not self._probing:
            self._probing = True
            probe = threading.Thread(
                target=_probe, args=(weakref.ref(self),), name="metalm-probe", daemon=True
            )
            try:
                probe.start()
            except RuntimeError:  # no thread is to be had; the next request tries again
                self._probing = False

    def _probe_next(self) -> bool:
        """Waits for an endpoint to be due, and asks it; False when there is nothing left to do."""
        with self._changed:
            endpoints = self._all()
            failed = [endpoint for endpoint in endpoints if endpoint.failures]
            # Without a fallback, requests try for themselves where none is well.
            pointless = not self._fallback and len(failed) == len(endpoints)
            if self._closed or pointless or (endpoints and not failed):
                self._probing = False
                return False
            now = time.monotonic()
            endpoint = min(failed, key=lambda endpoint: endpoint.due, default=None)
            if endpoint is None or endpoint.due > now:
                # Not for long, as nobody may want to know any more.
                self._changed.wait(min(0.5, endpoint.due - now if endpoint else 0.5))
                return True
        try:
            self._ask(endpoint)
        except MetaLMError as error:
            self.failed(endpoint, error)
        except Exception as error:  # whatever it sends, it must not end the thread
            self.failed(endpoint, Unavailable(f"{type(error).__name__}: {error}"))
        else:
            with self._changed:
                endpoint.failures, endpoint.due = 0, 0.0
                self._changed.notify_all()
        return True

    def _ask(self, endpoint: Endpoint) -> None:
        """Asks it for a little. Raises MetaLMError."""
        endpoint.transport.describe(None, timeout_s=min(_PROBE_S, self._timeout_s))
        # A server that is about to leave still describes itself, but gives no batch.
        little = BatchRequest(spec=Spec(L=1), seed=0, stop=1, batch_size=1)
        with endpoint.transport.batches(little) as answer:
            if next(answer, None) is None:
                raise Unavailable("it answers without a batch")


def _probe(owner: weakref.ref[Endpoints]) -> None:
    """Looks for an endpoint that is well again, as long as somebody has the endpoints."""
    while (endpoints := owner()) is not None and endpoints._probe_next():
        del endpoints
