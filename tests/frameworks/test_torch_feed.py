"""The feed to a device, on the device that every machine has."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from metalm import MetaLMClient
from metalm.torch import BatchDataset, DeviceFeed

RUN: dict[str, Any] = {"V": 8, "n": 3, "l": 4, "L": 16, "seed": 7, "batch_size": 3, "stop": 17}

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")


def twin() -> list[tuple[Any, Any]]:
    with MetaLMClient() as client:
        return [(x.tolist(), y.tolist()) for x, y in client.batches(**RUN)]


def lists(batches: Any) -> list[tuple[Any, Any]]:
    return [(x.tolist(), y.tolist()) for x, y in batches]


def test_batches_arrive_in_order_as_what_an_embedding_takes() -> None:
    dataset = BatchDataset(MetaLMClient(), **RUN)
    for source in (dataset, DataLoader(dataset, batch_size=None), MetaLMClient().batches(**RUN)):
        found = list(DeviceFeed(source, "cpu"))
        assert lists(found) == twin()
        assert {part.dtype for pair in found for part in pair} == {torch.int64}
    assert lists(DeviceFeed(dataset, torch.device("cpu"), dtype=torch.int32)) == twin()


@pytest.mark.parametrize("vocabulary", [300, 70000])
def test_the_wider_dtypes_are_cast_too(vocabulary: int) -> None:
    run = {**RUN, "V": vocabulary}
    with MetaLMClient() as client:
        expected = [x.tolist() for x, _ in client.batches(**run)]
    found = [x for x, _ in DeviceFeed(BatchDataset(MetaLMClient(), **run), "cpu")]
    assert [x.tolist() for x in found] == expected
    assert found[0].dtype == torch.int64


@pytest.mark.parametrize("workers", [0, 2])
def test_the_state_is_that_of_the_batch_handed_out_last(workers: int) -> None:
    """Not of the one that was read ahead."""
    expected = twin()
    dataset = BatchDataset(MetaLMClient(), **RUN)

    def loader() -> Any:
        return StatefulDataLoader(dataset, batch_size=None, num_workers=workers)

    for seen in (0, 1, 3, len(expected)):
        feed = DeviceFeed(loader(), "cpu")
        assert lists(islice(feed, seen)) == expected[:seen]
        again = loader()
        again.load_state_dict(feed.state_dict())
        assert lists(DeviceFeed(again, "cpu")) == expected[seen:]


def test_the_state_of_an_iterator_of_the_client() -> None:
    feed = DeviceFeed(MetaLMClient().batches(**RUN), "cpu")
    assert feed.state_dict()["position"] == 0
    next(feed)
    assert feed.state_dict()["position"] == 3
    with pytest.raises(TypeError, match="no state_dict"):
        DeviceFeed([], "cpu").state_dict()


def test_an_error_is_raised_behind_the_batches_before_it() -> None:
    class Failing(Iterator[Any]):
        """Raises once, in the middle."""

        def __init__(self) -> None:
            self.calls = 0

        def __next__(self) -> Any:
            self.calls += 1
            if self.calls == 2:
                raise OSError("away")
            if self.calls == 4:
                raise StopIteration
            return np.full((1, 2), self.calls), np.zeros((1, 2))

    feed = DeviceFeed(Failing(), "cpu")
    assert next(feed)[0].tolist() == [[1, 1]]
    with pytest.raises(OSError, match="away"):
        next(feed)
    assert [x.tolist() for x, _ in feed] == [[[3, 3]]]


def test_what_was_handed_out_stays_as_it_is() -> None:
    feed = DeviceFeed(MetaLMClient().batches(**RUN), "cpu")
    held = list(feed)
    assert lists(held) == twin()
