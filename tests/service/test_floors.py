"""Floors from a service: what it answers, and that nobody else is the worse for it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import urllib3

from metalm import Spec, Split
from metalm_proto.floors import FloorsRequest
from metalm_service.core.floors.summary import summarise
from metalm_service.floors.process import Worker, WorkerEndedError
from tests.door import opened
from tests.forked import running
from tests.service_process import Service
from tests.vitals import children

SMALL = "V=8&n=3&l=5&e=0.1&L=64&samples=4"
LONG = "V=64&n=10&l=64&L=4096&samples={samples}"
"""Some seconds of work; each number of samples is a question of its own."""


@pytest.fixture(scope="module")
def floors_service() -> Iterator[Service]:
    with running("--max-floors-cpu-s", "100000") as service:
        assert get(service, SMALL).status == 200  # kernels are compiled
        yield service


def get(service: Service, pairs: str, **headers: str) -> urllib3.BaseHTTPResponse:
    url = f"{service.http}/floors?{pairs}"
    return urllib3.request("GET", url, headers=headers, retries=False, timeout=110)


def workers(service: Service) -> list[int]:
    return children(service.process.pid)


def wait_for(reached: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < give_up_at
        time.sleep(0.02)


def begin(service: Service, samples: int) -> socket.socket:
    """Asks for something long, and does not wait for it."""
    host, port = service.http.partition("://")[2].split(":")
    connection = socket.create_connection((host, int(port)))
    path = f"/floors?{LONG.format(samples=samples)}"
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    return connection


def spent_s(pid: int) -> float:
    """Seconds of a core that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_for_work(service: Service) -> int:
    """The worker, once it computes."""
    wait_for(lambda: len(workers(service)) == 1)
    (worker,) = workers(service)
    before = spent_s(worker)
    wait_for(lambda: spent_s(worker) > before + 0.1)
    return worker


def test_the_answer_is_what_the_core_computes(floors_service: Service) -> None:
    spec = Spec(V=8, n=3, l=5, e=0.1, L=64)
    for steps in (False, True):
        answer = get(floors_service, f"{SMALL}&seed=3&first=2&steps={str(steps).lower()}")
        assert answer.headers["content-type"] == "application/json"
        summary = summarise(spec, 3, Split.TEST, 2, 4)
        assert answer.json() == json.loads(json.dumps(summary.as_dict(steps=steps)))


def test_it_is_for_caches(floors_service: Service) -> None:
    answer = get(floors_service, SMALL)
    assert answer.headers["Cache-Control"] == "public, max-age=86400"
    same = get(floors_service, SMALL, **{"If-None-Match": answer.headers["ETag"]})
    assert (same.status, same.data) == (304, b"")
    assert get(floors_service, SMALL + "&seed=1").headers["ETag"] != answer.headers["ETag"]


def test_what_was_computed_is_kept(floors_service: Service) -> None:
    first = get(floors_service, SMALL + "&seed=5")
    (worker,) = workers(floors_service)
    os.kill(worker, signal.SIGSTOP)
    try:
        assert get(floors_service, SMALL + "&seed=5").data == first.data
    finally:
        os.kill(worker, signal.SIGCONT)


def test_several_wait_for_one_answer(floors_service: Service) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: get(floors_service, SMALL + "&seed=6"), range(8)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.data for answer in answers}) == 1


@pytest.mark.parametrize(
    ("pairs", "field", "reason"),
    [
        ("samples=0", "samples", "INVALID_ARGUMENT"),
        ("first=18446744073709551615&samples=2", "samples", "INVALID_ARGUMENT"),
        ("L=0", "sequence_length (L)", "INVALID_ARGUMENT"),
        ("sample=5", "parameter", "INVALID_ARGUMENT"),
        ("L=131073", "L", "LIMIT_EXCEEDED"),
        ("samples=2147483647", "samples", "LIMIT_EXCEEDED"),
        ("L=100000&n=16777215&samples=300", "samples", "LIMIT_EXCEEDED"),
    ],
)
def test_what_is_wrong_or_too_dear_is_refused(
    service: Service, pairs: str, field: str, reason: str
) -> None:
    answer = get(service, pairs)
    assert answer.status == 400
    problem: dict[str, Any] = answer.json()
    assert (problem["reason"], problem["field"]) == (reason, field)


def test_what_nobody_waits_for_is_not_computed_to_its_end(floors_service: Service) -> None:
    with begin(floors_service, 20_000):
        worker = wait_for_work(floors_service)
    wait_for(lambda: worker not in workers(floors_service))
    assert get(floors_service, SMALL + "&seed=7").status == 200


def test_one_who_leaves_takes_nothing_from_another(floors_service: Service) -> None:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(get, floors_service, LONG.format(samples=500))
        wait_for_work(floors_service)
        with begin(floors_service, 500):
            # Asked after it, and answered: so that one has been heard.
            assert get(floors_service, SMALL).status == 200
        assert answer.result().status == 200


def test_a_worker_that_dies_is_told_and_replaced(floors_service: Service) -> None:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(get, floors_service, LONG.format(samples=20_001))
        os.kill(wait_for_work(floors_service), signal.SIGKILL)
        assert answer.result().status == 500
        assert answer.result().json()["reason"] == "INTERNAL"
    assert get(floors_service, SMALL + "&seed=8").status == 200


def test_a_worker_that_ended_while_it_was_idle_is_replaced(floors_service: Service) -> None:
    assert get(floors_service, SMALL + "&seed=10").status == 200
    (worker,) = workers(floors_service)
    os.kill(worker, signal.SIGKILL)
    # Until its last thread has ended nobody is told of its end.
    wait_for(lambda: not is_running(worker) and len(os.listdir(f"/proc/{worker}/task")) == 1)
    assert get(floors_service, SMALL + "&seed=11").status == 200
    assert worker not in workers(floors_service)


def test_batches_go_first(floors_service: Service) -> None:
    with begin(floors_service, 20_002):
        worker = wait_for_work(floors_service)
        assert os.getpriority(os.PRIO_PROCESS, worker) == 19
        with opened(floors_service.http) as door:
            assert len(list(door.batches(count=20))) == 20
        assert workers(floors_service) == [worker]


def test_so_many_wait_and_no_more(floors_service: Service) -> None:
    waiting = [begin(floors_service, 20_003 + k) for k in range(16)]
    try:
        while (refusal := refused(floors_service, seed=100 + len(waiting))) is None:
            # It had a place before one of them.
            waiting.append(begin(floors_service, 20_003 + len(waiting)))
            assert len(waiting) < 32
        assert refusal.json()["reason"] == "OVERLOADED"
        assert int(refusal.headers["Retry-After"]) >= 1
    finally:
        for connection in waiting:
            connection.close()
    wait_for(lambda: get(floors_service, SMALL + "&seed=9").status == 200)


def refused(service: Service, seed: int) -> urllib3.BaseHTTPResponse | None:
    """A refusal; None where there was room to wait, or even an answer."""
    url = f"{service.http}/floors?{SMALL}&seed={seed}"
    try:
        answer = urllib3.request("GET", url, retries=False, timeout=2)
    except urllib3.exceptions.TimeoutError:
        return None
    return answer if answer.status == 503 else None


def test_a_token_is_wanted_and_not_handed_on() -> None:
    token = "alice-0123456789abcdef"
    with running(METALM_TOKENS=f"alice {token}") as guarded:
        assert get(guarded, SMALL).status == 401
        answer = get(guarded, SMALL, Authorization=f"Bearer {token}")
        assert answer.status == 200
        assert answer.headers["Cache-Control"].startswith("private")
        (worker,) = workers(guarded)
        assert token.encode() not in Path(f"/proc/{worker}/environ").read_bytes()


def test_a_worker_does_not_outlive_a_service_that_was_killed() -> None:
    with running("--max-floors-cpu-s", "100000") as service, begin(service, 20_000):
        worker = wait_for_work(service)
        service.stop(signal.SIGKILL)
        wait_for(lambda: not is_running(worker))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_end_of_the_service_is_the_end_of_its_worker() -> None:
    with running("--max-floors-cpu-s", "100000", "--drain-timeout-s", "1") as service:
        with begin(service, 20_000) as connection:
            worker = wait_for_work(service)
            assert service.stop() == 0
            assert b" 503 " in connection.recv(2**16).partition(b"\r\n")[0]
        assert not Path(f"/proc/{worker}").exists()


def test_whoever_ends_the_worker_waits_for_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = threading.Event()
    wait = subprocess.Popen.wait

    def slow(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        # As long as a process of the least priority may take where cores are scarce.
        waited.set()
        time.sleep(0.2)
        return wait(process, timeout)

    worker, others = Worker(), set(children(os.getpid()))
    worker.start()
    (process,) = set(children(os.getpid())) - others
    monkeypatch.setattr(subprocess.Popen, "wait", slow)
    with ThreadPoolExecutor(1) as pool:
        long = FloorsRequest(spec=Spec(V=64, n=10, l=64, L=4096), samples=20_000)
        asked = pool.submit(worker.ask, json.dumps(long.as_dict()).encode())
        worker.kill()
        assert waited.wait(60)
        worker.close()
        assert not Path(f"/proc/{process}").exists()
        with pytest.raises(WorkerEndedError):
            asked.result()
    with pytest.raises(WorkerEndedError, match="for good"):
        worker.start()
