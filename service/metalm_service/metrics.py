"""What Prometheus is told: sums and times of calls, and the state of the handler."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Metric, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder

from metalm_proto.errors import InternalError
from metalm_service.calls import CANCELLED, DOORS, OK, OUTCOMES, OWN_METHODS, Call, Watcher
from metalm_service.handler import Handler, State
from metalm_service.sums import Sums

_OPENMETRICS = "application/openmetrics-text"


class Metrics(Watcher):
    """The metrics of one handler, in a registry of their own. Thread-safe.

    Labels are doors, methods and outcomes and nothing that a caller could choose freely, so that
    there are never more than 500 series.
    """

    def __init__(self, handler: Handler) -> None:
        self.registry = CollectorRegistry()
        self._requests = self._counter(
            "requests", "Calls that have ended.", "door", "method", "outcome"
        )
        self._refusals = self._counter(
            "refusals", "Calls that failed before any batch was sent.", "door", "reason"
        )
        # There from the start, as those below: a rate needs the zero before the first.
        for door in DOORS:
            for method in OWN_METHODS:
                for outcome in (OK, CANCELLED, InternalError.reason):
                    self._requests.labels(door, method, outcome)
            for reason in OUTCOMES:
                if reason not in (OK, CANCELLED):
                    self._refusals.labels(door, reason)
        self._sums = Sums()
        self.registry.register(self._sums)
        self.registry.register(_Standing(handler))
        ProcessCollector(registry=self.registry)

    def generated(self, call: Call, seconds: float, cpu_s: float) -> None:
        self._sums.generated(call, seconds, cpu_s)

    def sent(self, call: Call, batches: int, samples: int, tokens: int, size: int) -> None:
        self._sums.sent(call, batches, samples, tokens, size)

    def took(self, call: Call, batches: int, seconds: float) -> None:
        self._sums.took(call, batches, seconds)

    def ended(self, call: Call) -> None:
        self._requests.labels(call.door, call.method, call.outcome).inc()
        if call.outcome not in (OK, CANCELLED) and not call.batches:
            self._refusals.labels(call.door, call.outcome).inc()

    def collect(self) -> Iterator[Metric]:
        """What is exposed: all but the times at which each series was made."""
        for metric in self.registry.collect():
            metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
            yield metric

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The metrics as text, and its media type: OpenMetrics where the Accept header names it."""
        openmetrics = _OPENMETRICS in accept.lower()
        encode, media_type = choose_encoder(
            f"{_OPENMETRICS}; version=1.0.0" if openmetrics else "text/plain"
        )
        return encode(self), media_type

    def _counter(self, name: str, doc: str, *labels: str) -> Counter:
        return Counter(f"metalm_{name}", doc, labels, registry=self.registry)


class _Standing:
    """What a handler is, and how much of what it has is in use, at the moment of asking."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        described = handler.describe(None)
        self._build = (described.version, ",".join(described.generators), described.engine)

    def collect(self) -> Iterator[Metric]:
        handler, config = self._handler, self._handler.config
        build = GaugeMetricFamily(
            "metalm_build_info",
            "Version, generators and engine; always 1.",
            labels=("version", "generators", "engine"),
        )
        build.add_metric(self._build, 1)
        yield build
        state = GaugeMetricFamily("metalm_state", "1 for the state it is in.", labels=("state",))
        for each in State:
            state.add_metric((each.value,), each is handler.state)
        yield state
        for name, value, doc in (
            ("ready", handler.state is State.READY, "1 if requests are admitted."),
            ("requests_in_flight", handler.requests, "Requests that were admitted and run."),
            ("requests_in_flight_limit", config.max_requests, "How many may run."),
            ("bytes_in_flight", handler.inflight_bytes, "Bytes reserved for requests that run."),
            ("bytes_in_flight_limit", config.max_inflight_bytes, "How many may be reserved."),
            (
                "generating_threads_limit",
                config.threads,
                "Threads that generate; a batch on its way may take one more turn.",
            ),
        ):
            yield GaugeMetricFamily(f"metalm_{name}", doc, value=float(value))
