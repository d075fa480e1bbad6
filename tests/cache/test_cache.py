"""Batches never change, so a cache that knows nothing of them serves them: nginx, a real one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from metalm import MetaLMClient
from tests.cache.nginx import Nginx, states
from tests.proxy import Proxy
from tests.service_process import Service, running

STREAM: dict[str, Any] = {"V": 64, "L": 1024, "batch_size": 8, "seed": 7, "stop": 1024}
WINDOWS = 8
"""Of 2**18 bytes, sixteen batches each."""

http = urllib3.PoolManager(retries=False)


def sweep(url: str, **others: Any) -> list[tuple[int, int]]:
    """First sample and digest of each batch, verified by the client."""
    stream: dict[str, Any] = {"prefetch_bytes": 2**20, **STREAM, **others}
    with MetaLMClient(url, timeout_s=30) as client, client.batches(**stream) as batches:
        return [(batch.first, batch.digest) for batch in batches]


@pytest.fixture(scope="module")
def twin() -> list[tuple[int, int]]:
    return sweep("inprocess:")


@pytest.fixture
def nginx(service: Service, tmp_path: Path) -> Iterator[Nginx]:
    with Nginx(service.http, tmp_path) as nginx:
        yield nginx


def test_the_second_of_two_sweeps_comes_from_the_cache(
    nginx: Nginx, twin: list[tuple[int, int]]
) -> None:
    assert sweep(nginx.url) == twin
    first = nginx.lines(WINDOWS)
    assert states(first) == {"MISS": WINDOWS}
    assert all(line.asked for line in first)
    assert len({line.target for line in first}) == WINDOWS

    assert sweep(nginx.url) == twin
    second = nginx.lines(2 * WINDOWS)[WINDOWS:]
    assert states(second) == {"HIT": WINDOWS}
    assert not any(line.asked for line in second)
    # Byte for byte as long, too.
    assert sorted(line.bytes for line in first) == sorted(line.bytes for line in second)


def test_it_outlives_the_service(tmp_path: Path, twin: list[tuple[int, int]]) -> None:
    with running() as service, Nginx(service.http, tmp_path) as nginx:
        assert sweep(nginx.url) == twin
        nginx.lines(WINDOWS)
        service.process.kill()
        service.process.wait()
        assert sweep(nginx.url) == twin


def test_a_tag_that_is_known_is_answered_without_a_body(nginx: Nginx) -> None:
    url = f"{nginx.url}/batches?V=64&L=64&seed=7&stop=64"
    first = http.request("GET", url)
    assert (first.status, first.headers["X-Cache-Status"]) == (200, "MISS")
    for tag in (first.headers["ETag"], f'"other", {first.headers["ETag"]}'):
        again = http.request("GET", url, headers={"If-None-Match": tag})
        assert (again.status, again.data) == (304, b"")
        assert again.headers["X-Cache-Status"] == "HIT"
    other = http.request("GET", url, headers={"If-None-Match": '"other"'})
    assert (other.status, other.data) == (200, first.data)
    assert [line.asked for line in nginx.lines(4)] == [True, False, False, False]


def test_forms_of_an_answer_are_kept_apart(nginx: Nginx) -> None:
    url = f"{nginx.url}/batches?V=64&L=64&seed=7&stop=64"
    forms = ("application/x-ndjson", "*/*")
    bodies = []
    for state in ("MISS", "HIT"):
        answers = [http.request("GET", url, headers={"Accept": form}) for form in forms]
        assert [answer.headers["X-Cache-Status"] for answer in answers] == [state, state]
        bodies.append([answer.data for answer in answers])
    assert bodies[0] == bodies[1]
    assert bodies[0][0] != bodies[0][1]


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/sample?V=64&L=64", 200),
        ("/sample?V=1&seed=7", 400),
        ("/readyz", 200),
        ("/describe", 200),
        ("/nothing", 404),
    ],
)
def test_what_may_change_is_not_kept(nginx: Nginx, target: str, status: int) -> None:
    answers = [http.request("GET", nginx.url + target) for _ in range(2)]
    assert [answer.status for answer in answers] == [status, status]
    assert [answer.headers["X-Cache-Status"] for answer in answers] == ["MISS", "MISS"]
    if target.startswith("/sample?V=64"):
        assert answers[0].data != answers[1].data


def test_a_head_fetches_nothing(nginx: Nginx) -> None:
    url = f"{nginx.url}/batches?V=64&L=64&seed=7&stop=64"
    head = http.request("HEAD", url)
    assert http.request("GET", url).headers["X-Cache-Status"] == "MISS"
    full = http.request("GET", url)
    assert full.headers["X-Cache-Status"] == "HIT"
    assert head.headers["Content-Length"] == str(len(full.data))
    assert head.headers["ETag"] == full.headers["ETag"]


def test_of_many_at_once_one_asks_the_service(nginx: Nginx) -> None:
    ranks = 6
    found: list[list[tuple[int, int]]] = [[] for _ in range(ranks)]

    def rank(number: int) -> None:
        found[number] = sweep(nginx.url)

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(digests == found[0] for digests in found)
    assert len(found[0]) == 128
    assert sum(line.asked for line in nginx.lines(ranks * WINDOWS)) == WINDOWS


@pytest.mark.parametrize("kind", ["cut", "reset"])
def test_half_an_answer_is_not_kept(
    service: Service, tmp_path: Path, twin: list[tuple[int, int]], kind: str
) -> None:
    with Proxy(service.http) as proxy, Nginx(proxy.url, tmp_path) as nginx:
        proxy.arm(kind, after=100_000)
        assert sweep(nginx.url) == twin
        assert proxy.hits[kind] == 1
        # And what it had to be asked for again is whole.
        assert sweep(nginx.url) == twin
        assert sweep(nginx.url) == twin
        whole = {line.target: line for line in nginx.lines(3 * WINDOWS)[-WINDOWS:]}
        assert states(list(whole.values())) == {"HIT": WINDOWS}


def test_a_damaged_answer_that_was_kept_is_asked_past(
    service: Service, tmp_path: Path, twin: list[tuple[int, int]]
) -> None:
    with Proxy(service.http) as proxy, Nginx(proxy.url, tmp_path) as nginx:
        proxy.arm("flip", after=5_000)  # in the first batch of a window
        assert sweep(nginx.url) == twin
        assert proxy.hits["flip"] == 1
        assert states(nginx.lines(WINDOWS + 1)) == {"MISS": WINDOWS, "BYPASS": 1}
        # The good answer has taken the place of the damaged one.
        assert sweep(nginx.url) == twin
        assert states(nginx.lines(2 * WINDOWS + 1)[WINDOWS + 1 :]) == {"HIT": WINDOWS}


def test_nobody_is_given_a_damaged_answer_that_is_kept(
    service: Service, tmp_path: Path, twin: list[tuple[int, int]]
) -> None:
    with Proxy(service.http) as proxy, Nginx(proxy.url, tmp_path) as nginx:
        # Where the client goes on behind it the cache has another entry, and keeps this one.
        proxy.arm("flip", after=200_000)
        for _ in range(3):
            assert sweep(nginx.url) == twin
        assert proxy.hits["flip"] == 1
