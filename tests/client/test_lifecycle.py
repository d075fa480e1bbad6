"""Clients and iterators that come, go, are left, forked, pickled and shared."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any

import pytest

from metalm import BatchIterator, MetaLMClient
from metalm_proto.errors import Overloaded, Unavailable
from tests.door import opened
from tests.forked import running
from tests.proxy import Proxy
from tests.service_process import Service

RUN: dict[str, Any] = {"V": 64, "n": 8, "l": 8.0, "L": 64, "seed": 5, "batch_size": 16}
LARGE: dict[str, Any] = {"L": 2**14, "batch_size": 32, "seed": 1}
"""1 MiB a batch: no request of it fits into the buffers of a connection."""
DOORS = ["http", "grpc"]
OPENED = int(os.environ.get("METALM_TEST_OPENED", "60"))
FORKS = int(os.environ.get("METALM_TEST_FORKS", "3"))
PATIENCE_S = 30


@pytest.fixture(scope="module")
def narrow() -> Iterator[Service]:
    """A service that has a place for two requests only."""
    with running("--max-requests", "2") as service:
        yield service


def true_digests(count: int, start: int = 0) -> list[int]:
    with MetaLMClient("inprocess:") as twin:
        batches = twin.batches(**RUN, start=start * RUN["batch_size"], count=count)
        return [batch.digest for batch in batches]


def leave_by_break(client: MetaLMClient) -> None:
    for _ in client.batches(**LARGE):
        break


def leave_by_exception(client: MetaLMClient) -> None:
    with pytest.raises(ZeroDivisionError):
        for batch in client.batches(**LARGE):
            assert batch.size / 0


def leave_by_deletion(client: MetaLMClient) -> None:
    batches = client.batches(**LARGE)
    next(batches)
    del batches


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("leave", [leave_by_break, leave_by_exception, leave_by_deletion])
def test_an_iterator_that_is_left_frees_its_places(
    narrow: Service, door: str, leave: Callable[[MetaLMClient], None]
) -> None:
    url = getattr(narrow, door)
    with MetaLMClient(url) as client:
        for _ in range(3):
            leave(client)
            gc.collect()
            with opened(url) as asked:
                eventually(partial(asked.sample, L=8))
        eventually_no_more_threads("metalm-lane")


def eventually(call: Callable[[], object]) -> None:
    until = time.monotonic() + 30
    while True:
        try:
            call()
        except Overloaded:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


def eventually_no_more_threads(name: str) -> None:
    until = time.monotonic() + 30
    while found := [thread for thread in threading.enumerate() if thread.name.startswith(name)]:
        assert time.monotonic() < until, found
        time.sleep(0.01)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def threads() -> int:
    """Those of libraries as well."""
    return len(os.listdir("/proc/self/task"))


def test_nothing_is_left_of_clients_that_were_closed(url: str) -> None:
    def use() -> None:
        with MetaLMClient(url) as client, client.batches(**RUN) as batches:
            next(batches)

    for _ in range(20):
        use()
    gc.collect()
    before = open_files(), threads()
    for _ in range(OPENED):
        use()
    gc.collect()
    until = time.monotonic() + 30
    while (after := (open_files(), threads())) > (before[0] + 8, before[1] + 8):
        assert time.monotonic() < until, (before, after)
        time.sleep(0.05)
    assert after[0] <= before[0] + 8
    assert after[1] <= before[1] + 8


def test_a_client_is_for_many_threads(url: str) -> None:
    with MetaLMClient(url) as client:

        def run(start: int) -> list[int]:
            with client.batches(**RUN, start=16 * start, count=20) as batches:
                return [batch.digest for batch in batches]

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(run, range(16))) == [true_digests(20, s) for s in range(16)]


def in_child(client: MetaLMClient, batches: BatchIterator, answer: Connection[Any, Any]) -> None:
    """Goes on with the parent's iterator, and has one of its own."""
    found = [batch.digest for batch in islice(batches, 10)]
    batches.close()
    with client.batches(**RUN) as own:
        found += [batch.digest for batch in islice(own, 10)]
    answer.send((found, client.batch(**RUN).digest))


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_after_a_fork_each_has_its_own(url: str) -> None:
    check_children(url, "fork", FORKS)


def check_children(url: str, method: str, count: int) -> None:
    context: Any = multiprocessing.get_context(method)
    with MetaLMClient(url) as client, client.batches(**RUN) as batches:
        found = [next(batches).digest for _ in range(5)]
        for number in range(count):
            seen = 5 + number * 5
            here, there = context.Pipe()
            child = context.Process(target=in_child, args=(client, batches, there))
            child.start()
            there.close()
            # Both at the same time.
            found += [next(batches).digest for _ in range(5)]
            try:
                assert here.poll(PATIENCE_S), f"child {number} hangs"
                told, one = here.recv()
                child.join(PATIENCE_S)
                assert child.exitcode == 0
            finally:
                child.kill()
                child.join()
                here.close()
            assert told == true_digests(10, seen) + true_digests(10), number
            assert one == true_digests(1)[0]
        assert found == true_digests(len(found))


def batch_of(pickled: bytes) -> int:
    client: MetaLMClient = pickle.loads(pickled)
    with client:
        return client.batch(**RUN).digest


def test_a_client_goes_by_pickle(url: str) -> None:
    with MetaLMClient(url, timeout_s=7) as client:
        pickled = pickle.dumps(client)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(batch_of, (pickled,)) == client.batch(**RUN).digest


@pytest.mark.parametrize("read", [1, 0])
def test_an_interpreter_ends_with_an_iterator_open(url: str, read: int) -> None:
    program = f"""
from metalm import MetaLMClient
client = MetaLMClient({url!r})
batches = client.batches(**{json.dumps(LARGE)})
if {read}:
    next(batches)
else:
    import threading, time
    from metalm import Unavailable
    def wait():
        try:
            for _ in batches:
                pass
        except Unavailable:
            pass
        else:
            print("the run never ends, but the iterator said so")
    threading.Thread(target=wait, daemon=True).start()
    time.sleep(0.05)
"""
    begun_at = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "ignore::ResourceWarning", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert time.monotonic() - begun_at < 40


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("prefetch_bytes", [0, 2**22])
@pytest.mark.parametrize("how", ["drop", "close"])
def test_a_child_that_leaves_its_parents_iterator_ends_nothing(
    service: Service, door: str, prefetch_bytes: int, how: str
) -> None:
    with Proxy(getattr(service, door)) as proxy, MetaLMClient(proxy.url) as client:
        held = [client.batches(**LARGE, count=40, prefetch_bytes=prefetch_bytes)]
        found = [next(held[0]).digest]
        child = os.fork()
        if not child:
            try:
                if how == "close":
                    held[0].close()
                held.clear()
                gc.collect()
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        connections = proxy.connections
        found += [batch.digest for batch in held[0]]
        if not prefetch_bytes:
            # What was cut would have been asked for again.
            assert proxy.connections == connections
    with MetaLMClient("inprocess:") as twin:
        assert found == [batch.digest for batch in twin.batches(**LARGE, count=40)]


def test_a_client_that_is_closed_ends_its_iterators(url: str) -> None:
    client = MetaLMClient(url)
    iterators = [
        client.batches(**LARGE),
        client.batches(**LARGE).dealt(0, 2),
        client.batches(**LARGE, prefetch_bytes=0),
    ]
    for batches in iterators:
        next(batches)
    client.close()
    eventually_no_more_threads("metalm-lane")
    for batches in iterators:
        with pytest.raises(RuntimeError, match="closed"):
            next(batches)


@pytest.mark.parametrize("prefetch_bytes", [0, 2**22])
def test_who_waits_while_the_client_is_closed_is_told(prefetch_bytes: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = MetaLMClient(f"grpc://127.0.0.1:{silent.getsockname()[1]}", timeout_s=600)
        batches = client.batches(**LARGE, prefetch_bytes=prefetch_bytes)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(next, batches)
            connection, _ = silent.accept()
            with connection:
                client.close()
                with pytest.raises((Unavailable, RuntimeError)):
                    waiting.result(PATIENCE_S)
    eventually_no_more_threads("metalm-lane")
