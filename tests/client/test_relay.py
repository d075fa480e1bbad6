"""The process that speaks gRPC for one that was forked after gRPC had been used."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metalm import DeadlineExceeded, MetaLMClient, Spec, Unavailable
from metalm.transports.relay import RelayTransport
from metalm_proto.spec import BatchRequest
from tests.service_process import Service
from tests.vitals import children

REQUEST = BatchRequest.single(spec=Spec(L=8), seed=1, first=0, size=2)
LONG = BatchRequest(spec=Spec(L=2**14), seed=1, stop=32 * 200, batch_size=32)


def relays() -> list[int]:
    """The relays of this process."""
    return [
        child
        for child in children(os.getpid())
        if b"metalm.transports.relay" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


@pytest.fixture
def relay(service: Service) -> Iterator[RelayTransport]:
    target = service.grpc.partition("://")[2]
    transport = RelayTransport(target=target, secure=False, timeout_s=0.5)
    yield transport
    transport.close()
    assert relays() == []


def ask(transport: RelayTransport) -> list[int]:
    return [batch.digest for batch in transport.batches(REQUEST)]


def true() -> list[int]:
    with MetaLMClient() as twin:
        return [twin.batch(spec=Spec(L=8), seed=1, batch_size=2).digest]


def test_it_gives_what_the_service_gives(relay: RelayTransport) -> None:
    assert ask(relay) == true()
    assert relay.describe(Spec(L=8), 5.0).spec == Spec(L=8)
    assert len(relays()) == 1


def test_one_that_says_nothing_is_replaced(relay: RelayTransport) -> None:
    assert ask(relay) == true()
    (stopped,) = relays()
    os.kill(stopped, signal.SIGSTOP)
    with pytest.raises(DeadlineExceeded, match="no sign of the relay"):
        ask(relay)
    assert ask(relay) == true()
    assert stopped not in relays()


def test_one_that_dies_is_replaced(relay: RelayTransport) -> None:
    stream = relay.batches(LONG)
    next(stream)
    (killed,) = relays()
    os.kill(killed, signal.SIGKILL)
    with pytest.raises(Unavailable, match="the relay ended"):
        list(stream)
    # Its sockets are closed one after the other, all of them before it counts as ended.
    os.waitid(os.P_PID, killed, os.WEXITED | os.WNOWAIT)
    assert ask(relay) == true()


def test_one_that_is_stopped_can_be_ended(relay: RelayTransport) -> None:
    ask(relay)
    os.kill(relays()[0], signal.SIGSTOP)
    relay.close()
    assert relays() == []


def test_the_keys_that_interrupt_the_caller_are_not_for_it(relay: RelayTransport) -> None:
    ask(relay)
    assert os.getpgid(relays()[0]) != os.getpgid(0)


def test_a_request_is_ended_from_another_thread(relay: RelayTransport) -> None:
    with relay.batches(LONG) as stream:
        next(stream)
        stream.close()
        with pytest.raises(Unavailable, match="closed"):
            next(stream)
    assert ask(relay) == true()


def test_what_lies_in_the_working_directory_is_not_run(service: Service, tmp_path: Path) -> None:
    for name in ("secrets", "socket", "numpy", "grpc", "metalm"):
        (tmp_path / f"{name}.py").write_text("import os; os._exit(3)\n")
    program = f"""
import os, sys
from metalm import MetaLMClient
client = MetaLMClient({service.grpc!r}, timeout_s=30)
expected = client.batch(L=5, seed=1).digest
# A path that is no longer in what the process was started with.
os.environ.pop("PYTHONPATH", None)
pid = os.fork()
if pid == 0:
    right = client.batch(L=5, seed=1).digest == expected
    client.close()
    os._exit(0 if right else 1)
os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
