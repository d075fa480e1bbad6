"""The dataset for torch: the twin's batches in the twin's order, whoever reads them."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from metalm import InvalidArgument, MetaLMClient
from metalm.torch import BatchDataset
from tests.service_process import Service

SPEC: dict[str, Any] = {"V": 8, "n": 3, "l": 4, "e": 0.2, "L": 16}
RUN: dict[str, Any] = {**SPEC, "seed": 7, "batch_size": 3}
WORKERS = [(0, None), (1, "fork"), (2, "fork"), (3, "fork"), (2, "spawn")]

pytestmark = [
    # torch warns of workers beyond the cores of this machine,
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    # and of what torchdata 0.11 calls.
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
]


def twin(**arguments: Any) -> list[tuple[Any, Any]]:
    """What the client itself gives, as lists."""
    with MetaLMClient() as client:
        return [(x.tolist(), y.tolist()) for x, y in client.batches(**{**RUN, **arguments})]


def lists(loader: Any) -> list[tuple[Any, Any]]:
    return [(x.tolist(), y.tolist()) for x, y in loader]


def loader_of(dataset: BatchDataset, workers: int, context: str | None = "fork") -> Any:
    return DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=context if workers else None,
    )


def stateful(dataset: BatchDataset, workers: int) -> Any:
    return StatefulDataLoader(dataset, batch_size=None, num_workers=workers)


@pytest.mark.parametrize(("workers", "context"), WORKERS)
def test_any_number_of_workers_gives_the_batches_of_the_twin(
    workers: int, context: str | None
) -> None:
    # 35 samples: 12 batches, the last of 2, which 2 and 3 ranks and workers do not share evenly.
    for rank, world_size in ((0, 1), (0, 2), (1, 2)) if context == "fork" else ((1, 2),):
        place: dict[str, Any] = {"rank": rank, "world_size": world_size}
        dataset = BatchDataset(MetaLMClient(), **RUN, **place, start=5, stop=40)
        assert lists(loader_of(dataset, workers, context)) == twin(**place, start=5, stop=40)


@pytest.mark.parametrize(
    "arguments",
    [
        *({"stop": stop} for stop in (0, 1, 3, 4, 12, 13, 17, 18)),
        *({"stop": stop, "drop_last": True} for stop in (2, 11, 12, 17, 18, 23)),
        {"count": 5},
        {"stop": 40, "skip": [(2, 5), (11, 12), (20, 29)]},
        {"stop": 40, "skip": [(2, 5), (11, 12), (20, 29)], "drop_last": True},
        {"stop": 12, "split": "test"},
    ],
    ids=str,
)
def test_no_end_and_no_gap_loses_samples(arguments: dict[str, Any]) -> None:
    for world_size in (1, 2):
        for rank in range(world_size):
            place: dict[str, Any] = {"rank": rank, "world_size": world_size}
            dataset = BatchDataset(MetaLMClient(), **RUN, **place, **arguments)
            expected = twin(**place, **arguments)
            assert lists(loader_of(dataset, 0)) == expected
            for workers in (2, 3):
                # What the loader does with iterators of its workers, without the processes.
                with MetaLMClient() as client:
                    run = client.batches(**RUN, **place, **arguments)
                    dealt = [run.dealt(worker, workers) for worker in range(workers)]
                    found = []
                    while dealt:
                        for batches in list(dealt):
                            try:
                                x, y = next(batches)
                            except StopIteration:
                                dealt.remove(batches)
                            else:
                                found.append((x.tolist(), y.tolist()))
                assert found == expected


def test_tensors_have_the_small_dtype_and_the_memory_of_the_arrays() -> None:
    for vocabulary, dtype in ((254, torch.uint8), (255, torch.uint16), (70000, torch.int32)):
        dataset = BatchDataset(MetaLMClient(), seed=1, V=vocabulary, L=5, batch_size=2, stop=4)
        for x, y in (*dataset, *loader_of(dataset, 1)):
            assert x.dtype == y.dtype == dtype
            assert x.shape == y.shape == (2, 5)
    x, y = next(iter(dataset))
    assert y.untyped_storage().data_ptr() == y.numpy().ctypes.data - y.storage_offset() * 4


def test_every_epoch_is_the_same_run() -> None:
    dataset = BatchDataset(MetaLMClient(), **RUN, stop=10)
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context="fork",
    )
    assert lists(loader) == lists(loader) == twin(stop=10)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_stateful_loader_goes_on_at_the_sample_where_it_stood(workers: int) -> None:
    dataset = BatchDataset(MetaLMClient(), **RUN, stop=14)
    expected = twin(stop=14)
    loader = stateful(dataset, workers)
    batches = iter(loader)
    states = [loader.state_dict()]
    for _ in expected:
        next(batches)
        states.append(loader.state_dict())
    for step, state in enumerate(states):
        kept = json.loads(json.dumps(state))  # through a checkpoint
        assert len(json.dumps(kept)) < 1024 * (workers + 1)
        again = stateful(dataset, workers)
        again.load_state_dict(kept)
        assert lists(again) == expected[step:]


def test_a_state_that_is_none_is_refused() -> None:
    batches = iter(BatchDataset(MetaLMClient(), **RUN, stop=14))
    states: list[Any] = [None, 7, [1], {}]
    for wrong in states:
        with pytest.raises(InvalidArgument, match="state"):
            batches.load_state_dict(wrong)


def test_a_state_of_several_workers_goes_on_as_it_was_dealt_or_not_at_all() -> None:
    loader = stateful(BatchDataset(MetaLMClient(), **RUN, stop=30), 2)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    state = loader.state_dict()
    for name, other in (
        ("batch_size", {"batch_size": 2}),
        ("world_size", {"rank": 0, "world_size": 2}),
        ("skip", {"skip": [(20, 22)]}),
        ("seed", {"seed": 8}),
    ):
        different = stateful(BatchDataset(MetaLMClient(), **{**RUN, **other}, stop=30), 2)
        different.load_state_dict(state)
        # The loader's word for what a worker raised.
        with pytest.raises(RuntimeError, match=f"InvalidArgument: state {name} is"):
            next(iter(different))


def test_a_position_goes_on_with_any_workers_ranks_and_batch_size() -> None:
    before = BatchDataset(MetaLMClient(), **RUN, rank=1, world_size=2, stop=30)
    position = before.position_at(3)
    assert position == 18
    after = BatchDataset(MetaLMClient(), **{**RUN, "batch_size": 4}, start=position, stop=30)
    for workers in (0, 2):
        assert lists(loader_of(after, workers)) == twin(batch_size=4, start=position, stop=30)


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_workers_of_a_client_that_was_used_before(
    service: Service, scheme: str, context: str
) -> None:
    """Its connections and threads are the parent's; nothing hangs."""
    with MetaLMClient(getattr(service, scheme)) as client:
        dataset = BatchDataset(client, **RUN, stop=30)
        reading = iter(dataset)
        first = next(reading)
        assert lists(loader_of(dataset, 2, context)) == twin(stop=30)
        assert lists([first, *reading]) == twin(stop=30)  # the parent goes on
        assert lists(loader_of(dataset, 0)) == twin(stop=30)


def test_a_dataset_is_small_when_pickled_and_gives_the_same() -> None:
    dataset = BatchDataset(MetaLMClient(), **RUN, stop=10)
    data = pickle.dumps(dataset)
    assert len(data) < 2048
    assert lists(pickle.loads(data)) == twin(stop=10)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"rank": 2, "world_size": 2}, "rank"),
        ({"rank": 1}, "world_size"),
        ({"world_size": 2}, "rank"),
        ({"start": 4, "stop": 3}, "stop"),
        ({"V": 1}, "vocab_size"),
        ({"provenance": True}, "provenance"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument, match=field):
        BatchDataset(MetaLMClient(), **{**RUN, **arguments})


def test_no_framework_is_loaded_by_the_client() -> None:
    code = "import sys, metalm, metalm.source, metalm.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "grain", "datasets", "jax"} & set(done.stdout.split())
