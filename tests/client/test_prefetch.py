"""What reads ahead: however little it may hold, whatever fails in it, wherever the collector runs."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import islice
from typing import Any

from metalm import MetaLMClient
from tests.service_process import Service

RUN: dict[str, Any] = {"V": 64, "n": 8, "l": 8.0, "L": 1024, "seed": 5, "batch_size": 4}
"""8 KiB a batch."""
PATIENCE_S = 60


def ended(program: str, *arguments: str) -> str:
    """What a program of its own prints; nothing on standard error, and in good time."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::ResourceWarning", "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        # An arena for each thread would take what a test leaves.
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


SLOW = """
import sys, time
from metalm import MetaLMClient
run = dict(V=64, n=8, l=8.0, L=1024, seed=5, batch_size=4)
with MetaLMClient(sys.argv[1]) as client:
    runs = [client.batches(**run, prefetch_bytes=int(held)) for held in sys.argv[2:]]
    for _ in range(5):
        print(*(next(batches).digest for batches in runs))
        time.sleep(0.2)
    for batches in runs:
        batches.close()
"""


def test_a_batch_may_be_larger_than_what_is_held(url: str) -> None:
    """The reader is slow, so that the lanes wait for it and not it for them."""
    with MetaLMClient("inprocess:") as twin:
        true = [str(batch.digest) for batch in islice(twin.batches(**RUN), 5)]
    found = [line.split() for line in ended(SLOW, url, "1", "4000", "8192", "20000").splitlines()]
    assert found == [[digest] * 4 for digest in true]


SHORT_OF_THREADS = """
import re, resource, sys, threading
from itertools import islice
from pathlib import Path
from metalm import MetaLMClient
run = dict(V=64, n=8, l=8.0, L=1024, seed=5, batch_size=4)

def used():
    return int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

with MetaLMClient(sys.argv[1]) as client:
    client.batch(**run)
    # Room for one such stack, and not for two.
    stack = 2**28
    threading.stack_size(stack)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (used() + stack + stack // 2, hard))
    batches = client.batches(**run, prefetch_bytes=2**16)
    for batch in islice(batches, 20):
        print(batch.digest)
    batches.close()
    # And now for none, of those that are too large for the stack that the last thread has left.
    threading.stack_size(2 * stack)
    resource.setrlimit(resource.RLIMIT_AS, (used() + stack // 2, hard))
    batches = client.batches(**run, start=80, prefetch_bytes=2**16)
    try:
        next(batches)
    except RuntimeError:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    for batch in islice(batches, 20):
        print(batch.digest)
"""


def test_one_thread_does_it_where_no_second_is_to_be_had(service: Service) -> None:
    with MetaLMClient("inprocess:") as twin:
        true = [str(batch.digest) for batch in islice(twin.batches(**RUN), 40)]
    assert ended(SHORT_OF_THREADS, service.http).split() == true


SHORT_OF_MEMORY = """
import re, resource, sys
from itertools import islice
from pathlib import Path
from metalm import MetaLMClient
# 32 MiB a batch, the first of them in two parts, which are copied when both are there.
run = dict(V=64, n=8, l=8.0, L=2**16, seed=5, batch_size=256, skip=[(3, 4)])
with MetaLMClient(sys.argv[1]) as client:
    client.batch(L=8)
    used = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    batches = client.batches(**run, count=1)
    resource.setrlimit(resource.RLIMIT_AS, (used + 56 * 2**20, hard))
    try:
        next(batches)
    except MemoryError:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        print("out of memory at", batches.position)
    print(next(batches).digest)
"""


def test_what_fails_in_a_thread_is_told_and_the_run_goes_on(service: Service) -> None:
    with MetaLMClient("inprocess:") as twin:
        true = next(twin.batches(V=64, n=8, l=8.0, L=2**16, seed=5, batch_size=256, skip=[(3, 4)]))
    found = ended(SHORT_OF_MEMORY, service.http).splitlines()
    assert found == ["out of memory at 0", str(true.digest)]


COLLECTED_ANYWHERE = """
import gc, sys, threading, time
from metalm import MetaLMClient

def collect(frame, event, argument):
    if event in ("call", "c_call") and threading.current_thread().name.startswith("metalm-lane"):
        gc.collect(0)

run = dict(V=64, n=8, l=8.0, L=64, seed=5, batch_size=4)
with MetaLMClient(sys.argv[1]) as client:
    client.batch(**run)
    gc.collect()
    gc.disable()
    threading.setprofile(collect)
    for turn in range(40):
        batches = client.batches(**run, prefetch_bytes=2048)
        for _ in range(turn % 8 + 1):
            next(batches)
        # The lanes are about to go on, and only the collector finds what nobody has any more.
        cycle = [batches]
        cycle.append(cycle)
        del batches, cycle
    threading.setprofile(None)
    until = time.monotonic() + 30
    while any(thread.name.startswith("metalm-lane") for thread in threading.enumerate()):
        gc.collect()
        assert time.monotonic() < until, "lanes go on"
        time.sleep(0.01)
print("ended")
"""


def test_the_collector_may_run_in_any_line_of_a_thread(url: str) -> None:
    assert ended(COLLECTED_ANYWHERE, url) == "ended\n"
