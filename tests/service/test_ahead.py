"""Work that is given to threads while its caller may leave: what was reserved, and whose turn it is."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from metalm_proto.spec import BatchRequest, Spec
from metalm_service.calls import Calls
from metalm_service.config import ServerConfig
from metalm_service.handler import CallerGoneError, Handler
from metalm_service.http.ahead import Ahead
from metalm_service.http.formats import BATCHES_FORMATS
from metalm_service.http.streaming import following

STREAM = BATCHES_FORMATS[0]


@pytest.fixture
def handler() -> Handler:
    made = Handler(ServerConfig(threads=1))
    made.warm()
    return made


@contextmanager
def held_up() -> Iterator[ThreadPoolExecutor]:
    """An executor whose thread is busy until the block ends."""
    over = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(over.wait)
        try:
            yield executor
        finally:
            over.set()


def ahead(handler: Handler, executor: ThreadPoolExecutor) -> Ahead:
    request = BatchRequest(spec=Spec(L=64), seed=1, stop=8, batch_size=2)
    call = Calls().begin("http", "StreamBatches", "somebody", {})
    return Ahead(handler.admit(call, request, STREAM.encoding), STREAM, executor)


def read(handler: Handler) -> int:
    """The batches of a whole stream."""

    async def pieces(executor: ThreadPoolExecutor) -> int:
        stream, batches = ahead(handler, executor), 0
        while (piece := await following(stream)) is not None:
            batches += piece.batches
            stream.taken()
        return batches

    with ThreadPoolExecutor(1) as executor:
        return asyncio.run(pieces(executor))


def test_a_place_is_kept_until_the_thread_is_done(handler: Handler) -> None:
    """Though whoever waited for it was cancelled: a thread may fill its bytes."""

    async def leave(executor: ThreadPoolExecutor) -> None:
        stream = ahead(handler, executor)
        waiting = asyncio.create_task(following(stream))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        stream.close()
        assert handler.requests == 1

    with held_up() as executor:
        asyncio.run(leave(executor))
        assert handler.requests == 1
    assert handler.requests == 0
    assert read(handler) == 4


def test_who_waits_for_a_turn_leaves_at_once(handler: Handler) -> None:
    async def leave(executor: ThreadPoolExecutor) -> None:
        streams = [ahead(handler, executor) for _ in range(3)]
        assert handler.requests == 3
        streams[2].close()
        assert handler.requests == 2
        with pytest.raises(CallerGoneError):
            await following(streams[2])
        for stream in streams:
            stream.close()

    with held_up() as executor:
        asyncio.run(leave(executor))
    assert handler.requests == 0
    assert read(handler) == 4


def test_where_there_is_no_thread_the_stream_fails_and_the_turn_goes_on(handler: Handler) -> None:
    async def fail(executor: ThreadPoolExecutor) -> None:
        stream = ahead(handler, executor)
        with pytest.raises(RuntimeError, match="after shutdown"):
            await following(stream)
        stream.close()

    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    for _ in range(5):
        asyncio.run(fail(executor))
    assert handler.requests == 0
    assert read(handler) == 4


def test_what_was_left_is_not_held(handler: Handler) -> None:
    """Neither what was made for it nor the stream itself, until somebody collects cycles."""

    async def leave(executor: ThreadPoolExecutor, read_first: bool) -> weakref.ref[Ahead]:
        stream = ahead(handler, executor)
        if read_first:
            await following(stream)
        else:
            stream.abandon()
        stream.close()
        return weakref.ref(stream)

    gc.collect()
    gc.disable()
    try:
        for read_first in (True, False):
            with ThreadPoolExecutor(1) as executor:
                left = asyncio.run(leave(executor, read_first))
            assert handler.requests == 0
            assert left() is None
    finally:
        gc.enable()
