"""The command `metalm` in processes that are forked from one that has imported and compiled all.

What is started so is the real command in a process of its own, but for what comes before it: the
interpreter's start, the imports and the kernels cost a second of a core, and are paid for once.
Where the start or the interpreter's end is looked at, and in runs that measure, processes start as
users start them: `tests.service_process` and `tests.command`; with METALM_TEST_FRESH=1 all of them do.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests import command, service_process
from tests.service_process import PORTS, Service, ready

_ROOT = Path(__file__).parents[1]
_FRESH = os.environ.get("METALM_TEST_FRESH", "") not in ("", "0")
_PATIENCE_S = 100
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.prepared"])


class Forked:
    """What tests use of a `subprocess.Popen` whose output is in pipes, of the command `metalm`."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        # Its working directory is where the process that is forked from finds modules.
        with contextlib.chdir(_ROOT):
            forkserver.ensure_running()
        pipes = [_CONTEXT.Pipe(duplex=False) for _ in range(2)]
        self._process = _CONTEXT.Process(
            target=_command,
            args=(arguments, {**os.environ, **environment}, os.getcwd(), *(w for _, w in pipes)),
            daemon=True,
        )
        self._process.start()
        for _, writer in pipes:
            writer.close()
        self.stdout, self.stderr = (_text(reader) for reader, _ in pipes)
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("metalm", timeout or 0)
        return self._process.exitcode

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def output(self, timeout: float) -> list[bytes]:
        """All that it prints, on its standard output and its standard error, until it ends.

        Raises subprocess.TimeoutExpired, and kills it then.
        """
        found = {self.stdout.fileno(): b"", self.stderr.fileno(): b""}
        until = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            for descriptor in found:
                selector.register(descriptor, selectors.EVENT_READ)
            while selector.get_map():
                waited = selector.select(max(0.0, until - time.monotonic()))
                if not waited:
                    self.kill()
                    raise subprocess.TimeoutExpired("metalm", timeout)
                for key, _ in waited:
                    piece = os.read(key.fd, 2**16)
                    found[key.fd] += piece
                    if not piece:
                        selector.unregister(key.fd)
        self.wait(timeout)
        for stream in (self.stdout, self.stderr):
            stream.close()
        return list(found.values())

    def communicate(self, timeout: float = _PATIENCE_S) -> tuple[str, str]:
        output, errors = (text.decode(errors="backslashreplace") for text in self.output(timeout))
        return output, errors


def metalm(*arguments: str, **environment: str) -> Forked | subprocess.Popen[str]:
    """The command `metalm`, with its output in pipes."""
    if _FRESH:
        return service_process.metalm(*arguments, **environment)
    return Forked(arguments, environment)


@contextmanager
def running(*flags: str, **environment: str) -> Iterator[Service]:
    """A service on free ports that is ready; killed at the end if it still runs."""
    with ready(metalm("serve", *PORTS, *flags, **environment)) as service:
        yield service


def run(
    *arguments: str, check: bool = True, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """The command, run to its end; with `check`, one that must succeed."""
    if _FRESH:
        return command.run(*arguments, check=check, **environment)
    process = Forked(arguments, environment)
    output, errors = process.output(_PATIENCE_S)
    done = subprocess.CompletedProcess(arguments, process.wait(), output, errors)
    if check:
        assert done.returncode == 0, errors.decode()
    return done


def _text(reader: Connection[Any, Any]) -> io.TextIOWrapper:
    with reader:
        return open(os.dup(reader.fileno()), errors="backslashreplace")


def _command(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    place: str,
    *outputs: Connection[Any, Any],
) -> None:
    """In the forked process: what `python -m metalm` does."""
    assert "tests.prepared" in sys.modules
    from metalm.cli import main

    for number, output in enumerate(outputs, start=1):
        with output:
            os.dup2(output.fileno(), number)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  # for as long as the process lives
    sys.stderr = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.chdir(place)
    os.environ.clear()
    os.environ.update(environment)
    sys.exit(main(list(arguments)))
