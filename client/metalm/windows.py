"""Windows of a run: which there are, and their batches one after another, as they are asked for."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

from metalm.failover import EndpointStream, FailoverTransport
from metalm.forks import keep_in_children
from metalm.schedule import Schedule, Window
from metalm_proto.batch import Batch, joined
from metalm_proto.spec import BatchRequest

Step = tuple[Batch, int]
"""This rank's batch of a step, and the position behind the step."""

_DIRECT_BYTES = 2**28
_MOST_BATCHES = 2**14


class Plan:
    """The windows of a run from a position on."""

    def __init__(
        self, schedule: Schedule, template: BatchRequest, position: int, window_bytes: int
    ) -> None:
        self.schedule = schedule
        self.batch_bytes = _batch_bytes(template)
        self._template = template
        self._position = schedule.settled(position)
        self._steps = max(1, min(_MOST_BATCHES, window_bytes // self.batch_bytes))

    def following(self) -> Window | None:
        """The next window; None when nothing is left for this rank."""
        if self.schedule.ended(self._position):
            return None
        window = self.schedule.window(self._template, self._position, self._steps)
        self._position = window.stop
        return window if window.requests else None


class Direct:
    """Steps as the caller asks for them."""

    def __init__(
        self,
        transport: FailoverTransport,
        schedule: Schedule,
        template: BatchRequest,
        position: int,
    ) -> None:
        self._streams: set[EndpointStream] = set()
        plan = Plan(schedule, template, position, _DIRECT_BYTES)
        self._steps = _steps(transport, plan, self._streams)
        keep_in_children(self)
        transport.read_by(self)

    def following(self) -> Step | None:
        """The next step, None at the end. Raises MetaLMError."""
        return next(self._steps, None)

    def interrupt(self) -> None:
        """Ends the request that is under way, from any thread."""
        for stream in list(self._streams):
            stream.close()

    def close(self) -> None:
        self._steps.close()


def _steps(
    transport: FailoverTransport, plan: Plan, streams: set[EndpointStream]
) -> Generator[Step, None, None]:
    """`streams`: those that are read at the moment."""
    while (window := plan.following()) is not None:
        positions = window.positions(plan.schedule)
        parts: list[Batch] = []
        for request in window.requests:
            with closing(transport.batches(request)) as stream:
                streams.add(stream)
                try:
                    if window.in_parts:
                        parts += stream
                    else:
                        yield from zip(stream, positions, strict=True)
                finally:
                    streams.discard(stream)
        if window.in_parts:
            yield joined(parts), next(positions)


def _batch_bytes(request: BatchRequest) -> int:
    """Bytes of a batch's arrays; about, with provenance."""
    spec, size = request.spec, request.batch_size
    total = 2 * size * spec.L * spec.dtype.itemsize
    if request.provenance:
        languages = size if spec.language is None else 1
        total += size * spec.L * (4 + 4 + 4 + 1)
        total += languages * spec.n * (4 + int(max(spec.l, 3) + 1) * spec.dtype.itemsize)
    return total
