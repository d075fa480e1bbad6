"""What Prometheus is told: sums and times of calls, and the state of the handler."""

from __future__ import annotations

import math
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder

from metalm_proto.errors import InternalError
from metalm_service.calls import CANCELLED, DOORS, OK, OUTCOMES, OWN_METHODS, Call, Watcher
from metalm_service.handler import Handler, State

_SECONDS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0),
)
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
        self._batches = self._by_door("batches", "Batches given to the transport.")
        self._samples = self._by_door("samples", "Samples in batches given to the transport.")
        self._tokens = self._by_door(
            "tokens",
            "Tokens in batches given to the transport; a position of x and y together is one.",
        )
        self._bytes = self._by_door(
            "sent_bytes", "Bytes of batches given to the transport, as encoded."
        )
        self._cpu = self._by_door(
            "generation_cpu_seconds", "Seconds of one core spent on generating."
        )
        self._generation = self._times(
            "generation_seconds",
            "From a batch being asked for to its being there, waits for a turn included.",
        )
        self._send = self._times(
            "send_seconds", "From a batch's being there to the door's being ready for the next."
        )
        self.registry.register(_Standing(handler))
        ProcessCollector(registry=self.registry)

    def generated(self, call: Call, seconds: float, cpu_s: float) -> None:
        self._cpu[call.door].inc(cpu_s)
        if not math.isnan(seconds):
            self._generation[call.door].observe(seconds)

    def sent(self, call: Call, samples: int, tokens: int, size: int) -> None:
        door = call.door
        self._batches[door].inc()
        self._samples[door].inc(samples)
        self._tokens[door].inc(tokens)
        self._bytes[door].inc(size)

    def took(self, call: Call, seconds: float) -> None:
        self._send[call.door].observe(seconds)

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

    def _by_door(self, name: str, doc: str) -> dict[str, Counter]:
        counter = self._counter(name, doc, "door")
        return {door: counter.labels(door) for door in DOORS}

    def _times(self, name: str, doc: str) -> dict[str, Histogram]:
        histogram = Histogram(
            f"metalm_{name}", doc, ["door"], registry=self.registry, buckets=_SECONDS
        )
        return {door: histogram.labels(door) for door in DOORS}


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
