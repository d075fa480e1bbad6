"""Memory that is used again: never while anybody has what is in it."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from metalm import Batch, MetaLMClient, Spec
from metalm.transports.memory import Memory

SIZE = 2**18 + 33


def address(view: memoryview | NDArray[np.uint8]) -> int:
    return int(np.frombuffer(view, np.uint8).ctypes.data)


def test_what_is_kept_is_not_written_to() -> None:
    memory = Memory()
    taken = []
    for number in range(50):
        view = memory.take(SIZE)
        view[:] = bytes([number]) * SIZE
        # A view of a view is as good as the whole.
        taken.append(np.frombuffer(view, np.uint8)[5:].reshape(4, -1)[2:])
        del view
        if number % 3 == 0:
            taken.pop()
    kept = [number for number in range(50) if number % 3]
    assert [int(array.min()) for array in taken] == kept
    assert [int(array.max()) for array in taken] == kept


def test_what_is_given_up_is_used_again() -> None:
    memory = Memory()
    view = memory.take(SIZE)
    place = address(view)
    del view
    # A message of a few bytes more or less.
    assert address(memory.take(SIZE - 9)) == place
    held = memory.take(SIZE)
    assert address(held) == place
    assert address(memory.take(SIZE)) != place


def test_not_more_is_kept_than_a_client_fetches_at_a_time() -> None:
    memory = Memory()
    size = 2**22
    views = [memory.take(size) for _ in range(9)]
    places = {address(view) for view in views}
    del views
    again = [memory.take(size) for _ in range(9)]
    assert sum(len(piece) for piece in memory._free) == 0
    assert len({address(view) for view in again} & places) >= 4
    again.clear()
    assert sum(len(piece) for piece in memory._free) == 2**24
    memory.take(size // 2)
    assert sum(len(piece) for piece in memory._free) <= size // 2
    memory.close()
    assert not memory._free


def test_what_comes_back_after_the_end_is_not_kept() -> None:
    memory = Memory()
    view = memory.take(SIZE)
    memory.close()
    view[:3] = b"abc"
    assert bytes(view[:3]) == b"abc"
    del view
    assert not memory._free


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097])
def test_a_piece_has_the_size_that_was_asked_for(size: int) -> None:
    view = Memory().take(size)
    assert len(view) == view.nbytes == size
    assert not view.readonly


def test_threads_never_share_a_piece() -> None:
    memory = Memory()
    wrong = []

    def work(number: int) -> None:
        for _ in range(300):
            array = np.frombuffer(memory.take(2**16 + number % 2 * 2**13), np.uint8)
            array[:] = number
            if not (array == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.fixture
def batches(server_url: str) -> Iterator[Iterator[Batch]]:
    with MetaLMClient(server_url) as client:
        yield client.batches(spec=Spec(L=4096), seed=7, batch_size=16, count=60)


def test_batches_and_parts_of_them_stay_what_they_were(batches: Iterator[Batch]) -> None:
    kept, rows = [], []
    for number, batch in enumerate(batches):
        batch.verify()
        if number % 4 == 0:
            kept.append(batch)
        elif number % 4 == 1:
            rows.append((batch.y[3], batch.y[3].copy()))
    del batch
    gc.collect()
    for batch in kept:
        batch.verify()
    for row, before in rows:
        assert np.array_equal(row, before)


def test_batches_may_be_written_to(batches: Iterator[Batch]) -> None:
    first = next(batches)
    first.x[:] = 3
    for batch in batches:
        batch.verify()
        batch.y[:] = 5
    assert (first.x == 3).all()
