"""Who asks for floors, and what of them is known already."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass, field

from metalm_proto.errors import Draining, InternalError, LimitExceeded, Overloaded
from metalm_proto.floors import FloorsRequest
from metalm_service.core.floors import LADDER
from metalm_service.core.floors.cost import cost_of
from metalm_service.floors.process import Worker, WorkerEndedError

_MOST_WAITING = 16
_COME_AGAIN_S = 2.0
_IDLE_S = 300.0
"""After so long without a question the worker, which has a hundred MiB, is ended."""
_KEPT_BYTES = 32 * 2**20
MOST_STEPS = 2**17
"""L at most: so that the worker has its memory, too, within bounds."""


@dataclass(slots=True, eq=False)
class _Job:
    wanted: FloorsRequest
    askers: int = 1
    answer: Future[bytes] = field(default_factory=Future)


class FloorsDesk:
    """Floors as JSON, computed one after the other by a process of the least priority; what was
    computed is kept, and what several want is computed once. Thread-safe.

    `max_cpu_s`: seconds of a core that an answer may cost.
    """

    def __init__(self, max_cpu_s: float) -> None:
        self._max_cpu_s = max_cpu_s
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        # The first of them is computed.
        self._asked: dict[FloorsRequest, _Job] = {}
        self._computed: _Job | None = None
        self._worker = Worker()
        self._thread: threading.Thread | None = None
        self._closed = False
        # Whatever was asked for last is last.
        self._kept: OrderedDict[FloorsRequest, bytes] = OrderedDict()
        self._kept_bytes = 0

    def check(self, wanted: FloorsRequest) -> None:
        """Raises LimitExceeded for what would cost too much."""
        if wanted.spec.L > MOST_STEPS:
            bound = f"at most {MOST_STEPS} for floors from a service"
            raise LimitExceeded("L", wanted.spec.L, bound)
        seconds = cost_of(wanted.spec, wanted.samples, LADDER).cpu_s
        if seconds > self._max_cpu_s:
            bound = (
                f"fewer (or L or n less): the floors would cost {seconds:.3g} seconds of a core "
                f"and this server gives at most {self._max_cpu_s:g}"
            )
            raise LimitExceeded("samples", wanted.samples, bound)

    def ask(self, wanted: FloorsRequest) -> Future[bytes]:
        """The answer, once it is there. Whoever asks says with `leave` that he wants it no more,
        or has it.

        Raises LimitExceeded, Overloaded and Draining; the future InternalError and Draining.
        """
        self.check(wanted)
        with self._lock:
            if self._closed:
                raise Draining("the server is shutting down", 0.0)
            if (known := self._kept.get(wanted)) is not None:
                self._kept.move_to_end(wanted)
                answer: Future[bytes] = Future()
                answer.set_result(known)
                return answer
            if (job := self._asked.get(wanted)) is not None:
                job.askers += 1
                return job.answer
            if len(self._asked) >= _MOST_WAITING:
                message = f"{len(self._asked)} floors are waited for, as many as may be"
                raise Overloaded(message, _COME_AGAIN_S)
            job = self._asked[wanted] = _Job(wanted)
            self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="floors", daemon=True)
                self._thread.start()
            return job.answer

    def leave(self, wanted: FloorsRequest, answer: Future[bytes]) -> None:
        """One of those who were promised this answer is gone. What nobody waits for is not computed
        to its end."""
        with self._lock:
            job = self._asked.get(wanted)
            if job is None or job.answer is not answer:
                return
            job.askers -= 1
            if job.askers == 0:
                del self._asked[wanted]
                if job is self._computed:
                    self._worker.kill()

    def close(self) -> None:
        """Ends the work; those who still wait get Draining."""
        with self._lock:
            self._closed = True
            left = list(self._asked.values())
            self._asked.clear()
            self._changed.notify()
        self._worker.close()
        for job in left:
            job.answer.set_exception(Draining("the server is shutting down", 0.0))

    def _run(self) -> None:
        while not self._closed:
            with self._lock:
                self._changed.wait_for(lambda: self._asked or self._closed, _IDLE_S)
                job = next(iter(self._asked.values()), None)
            if job is None:
                self._worker.end()
            else:
                self._compute(job)

    def _compute(self, job: _Job) -> None:
        answer, failure = b"", ""
        try:
            # Before it is known as what is computed: whoever leaves finds a process to kill.
            self._worker.start()
            with self._lock:
                if not self._is_wanted(job):
                    return
                self._computed = job
            answer = self._worker.ask(json.dumps(job.wanted.as_dict()).encode())
        except WorkerEndedError as error:
            failure = str(error)
        with self._lock:
            self._computed = None
            if wanted := self._is_wanted(job):
                del self._asked[job.wanted]
                if answer:
                    self._keep(job.wanted, answer)
        if not wanted:
            # It may have been killed with the answer on its way already: the next is not asked of
            # a process that ends.
            self._worker.end()
        elif answer:
            job.answer.set_result(answer)
        else:
            job.answer.set_exception(InternalError(f"no floors: {failure}"))

    def _is_wanted(self, job: _Job) -> bool:
        return self._asked.get(job.wanted) is job

    def _keep(self, wanted: FloorsRequest, answer: bytes) -> None:
        self._kept[wanted] = answer
        self._kept_bytes += len(answer)
        while self._kept_bytes > _KEPT_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= len(oldest)
