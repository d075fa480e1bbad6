"""Samples by index, as map-style datasets read them."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import datasets
import grain
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from metalm import InvalidArgument, MetaLMClient
from metalm.source import SampleSource
from tests.frameworks.processes import in_a_process

SPEC: dict[str, Any] = {"V": 8, "n": 3, "l": 4, "L": 16}


def source_of(**arguments: Any) -> SampleSource:
    return SampleSource(MetaLMClient(), **{**SPEC, "samples": 20, "seed": 7, **arguments})


@pytest.fixture(scope="module")
def expected() -> list[tuple[list[int], list[int]]]:
    """x and y of the samples 0 to 39, from the client itself."""
    with MetaLMClient() as client:
        x, y = client.batch(0, batch_size=40, seed=7, **SPEC)
    return list(zip(x.tolist(), y.tolist(), strict=True))


def lists(samples: Any) -> list[tuple[list[int], list[int]]]:
    return [(x.tolist(), y.tolist()) for x, y in samples]


def test_it_is_a_sequence(expected: list[Any]) -> None:
    source = source_of(start=5)
    assert len(source) == 20
    assert lists(source) == expected[5:25]
    assert lists([source[-1], source[-20], source[np.int64(3)]]) == [
        expected[24], expected[5], expected[8],
    ]  # fmt: skip
    for index in (20, -21, 2**70):
        with pytest.raises(IndexError, match=f"index is {index}; this source has 20 samples"):
            source[index]
    with pytest.raises(TypeError):
        source["1"]  # type: ignore[index]


def test_neighbours_come_in_one_request(expected: list[Any]) -> None:
    class Counting(MetaLMClient):
        def batch(self, first: int = 0, **arguments: Any) -> Any:
            asked.append((first, arguments["batch_size"]))
            return super().batch(first, **arguments)

    asked: list[tuple[int, int]] = []
    source = SampleSource(Counting(), samples=1000, seed=7, start=5, **SPEC)
    indices = [7, 3, 4, 3, -1, 5, 0]
    assert lists(source.__getitems__(indices)[:4]) == [expected[5 + i] for i in (7, 3, 4, 3)]
    assert asked == [(5, 1), (8, 3), (12, 1), (1004, 1)]
    asked.clear()
    assert len(source.__getitems__(range(600))) == 600
    assert sum(size for _, size in asked) == 600
    assert max(size for _, size in asked) <= 256
    assert source.__getitems__([]) == []


def test_it_may_be_pickled(expected: list[Any]) -> None:
    again = pickle.loads(pickle.dumps(source_of(split="test", language=3)))
    assert repr(again) == repr(source_of(split="test", language=3))
    assert repr(again) != repr(source_of(split="test", language=4))
    assert lists([pickle.loads(pickle.dumps(source_of()))[4]]) == [expected[4]]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"samples": -1}, "samples"),
        ({"samples": 2**70}, "samples"),
        ({"samples": 2, "start": 2**64 - 1}, "samples"),
        ({"seed": None}, "seed"),
        ({"split": "other"}, "split"),
        ({"V": 1}, "vocab_size"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument, match=field):
        source_of(**arguments)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("vocabulary", [8, 300])
def test_torch_shuffles_and_collates_it(workers: int, vocabulary: int) -> None:
    loader = DataLoader(
        source_of(V=vocabulary),  # type: ignore[arg-type,unused-ignore]  # a Dataset by its methods
        batch_size=6,
        shuffle=True,
        num_workers=workers,
        generator=torch.Generator().manual_seed(1),
        multiprocessing_context="fork" if workers else None,
    )
    batches = list(loader)
    assert [tuple(x.shape) for x, _ in batches] == [(6, 16), (6, 16), (6, 16), (2, 16)]
    assert {x.dtype for x, _ in batches} == {torch.uint8 if vocabulary == 8 else torch.uint16}
    rows = [row for x, y in batches for row in zip(x.tolist(), y.tolist(), strict=True)]
    assert rows != lists(source_of(V=vocabulary))
    assert sorted(rows) == sorted(lists(source_of(V=vocabulary)))


def test_grain_shuffles_batches_and_goes_on_with_it(expected: list[Any]) -> None:
    dataset = grain.MapDataset.source(source_of())
    assert lists(dataset[i] for i in range(len(dataset))) == expected[:20]
    batches = dataset.shuffle(seed=3).batch(5).to_iter_dataset()
    reading = iter(batches)
    before = [next(reading) for _ in range(2)]
    state = reading.get_state()
    after = list(reading)
    rows = [row for x, y in before + after for row in zip(x.tolist(), y.tolist(), strict=True)]
    assert sorted(rows) == sorted(expected[:20])
    again = iter(batches)
    again.set_state(state)
    assert [x.tolist() for x, _ in again] == [x.tolist() for x, _ in after]


def test_datasets_takes_the_client_as_a_generator(
    expected: list[Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    dataset = datasets.IterableDataset.from_generator(rows, gen_kwargs={"start": 0, "stop": 10})
    found = [(row["x"], row["y"]) for row in dataset]
    assert found == expected[:10]


def rows(start: int, stop: int) -> Iterator[dict[str, Any]]:
    with MetaLMClient() as client:
        for batch in client.batches(seed=7, start=start, stop=stop, batch_size=4, **SPEC):
            for x, y in zip(*batch, strict=True):
                yield {"x": x.tolist(), "y": y.tolist()}


def test_arrays_go_into_jax_as_they_are(expected: list[Any]) -> None:
    dtype, shape, rows = in_a_process(_through_jax)
    assert (dtype, shape) == ("uint8", (4, 16))
    assert rows == [row for row, _ in expected[:4]]


def _through_jax() -> tuple[str, tuple[int, ...], list[list[int]]]:
    import jax
    import jax.numpy as jnp

    with MetaLMClient() as client:
        x = jnp.asarray(client.batch(0, batch_size=4, seed=7, **SPEC).x)
    embedded = jax.jit(lambda ids: jnp.arange(10)[ids.astype(jnp.int32)])(x)
    return str(x.dtype), x.shape, embedded.tolist()
