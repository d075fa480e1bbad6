"""The worker, seen from the service."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress

_END_S = 3.0
_LEAST_PRIORITY = 19


class WorkerEndedError(Exception):
    """The worker ended before it had answered."""


class Worker:
    """Another process, which `start` begins if it does not run. One thread starts and asks; all
    else may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def start(self) -> None:
        """Begins the process, so that from now on `kill` finds it. Raises WorkerEndedError where it
        has ended for good, or cannot be started."""
        if (process := self._process) is not None and process.poll() is not None:
            self.end()
        with self._lock:
            if self._closed:
                raise WorkerEndedError("the worker has ended for good")
            if self._process is None:
                try:
                    self._process = _started()
                except OSError as error:
                    raise WorkerEndedError(f"the worker could not be started: {error}") from error

    def ask(self, question: bytes) -> bytes:
        """The answer to a line. Raises WorkerEndedError, also where it was told to end."""
        process = self._process
        if process is None:
            raise WorkerEndedError("the worker was ended before it was asked")
        assert process.stdin is not None
        assert process.stdout is not None
        answer = b""
        with suppress(OSError, ValueError):  # it has ended, or was ended from elsewhere
            process.stdin.write(question + b"\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        if not answer.endswith(b"\n"):
            self.end()
            raise WorkerEndedError(f"the worker ended with status {process.wait(_END_S)}")
        return answer[:-1]

    def kill(self) -> None:
        """Ends it whatever it is doing, and does not wait: where cores are scarce, the end of a
        process of the least priority takes its time."""
        process = self._process
        if process is not None:
            process.kill()

    def end(self) -> None:
        """Ends it and waits for that, also where another thread ends it just now. `start`
        begins another."""
        with self._lock:
            process, self._process = self._process, None
            if process is not None:
                process.kill()
                process.wait()
                for stream in (process.stdin, process.stdout):
                    assert stream is not None
                    with suppress(OSError):  # what was not sent is lost
                        stream.close()

    def close(self) -> None:
        """Ends it for good: no other is begun."""
        self._closed = True
        self.end()


def _started() -> subprocess.Popen[bytes]:
    # The same modules as here, and not what lies in the working directory.
    paths = os.pathsep.join(path for path in sys.path if path)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "metalm_service.floors.worker"],
        env={**_environment(), "PYTHONPATH": paths},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Ctrl-C is for the service, which ends it.
        start_new_session=True,
    )
    # Its imports, too, wait for whoever needs the cores: so it does not do this itself.
    os.setpriority(os.PRIO_PROCESS, process.pid, _LEAST_PRIORITY)
    return process


def _environment() -> dict[str, str]:
    """Without what is the service's own, its tokens among it; with its cache of kernels, as a
    process that is ended in the middle would leave a copy of its own behind."""
    # Not with the module: it loads the compiler.
    from metalm_service.core.compiling import cache_in_use

    kept = {name: value for name, value in os.environ.items() if not name.startswith("METALM_")}
    return kept | ({"NUMBA_CACHE_DIR": directory} if (directory := cache_in_use()) else {})
