"""`python -m metalm.bench.frameworks`: torch's DataLoader over this project's dataset, and over a
plain numpy generator."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from metalm.bench.suite import BATCH_SIZE, SPEC, TOKENS
from metalm.bench.yardsticks import PlainNumpyGenerator
from metalm.client import MetaLMClient
from metalm.torch import BatchDataset
from metalm.torch.dataset import Pair

_WORKERS = (0, 1, 2)
_PREFETCH = 2
"""Batches that a worker makes before they are asked for."""


class PlainDataset(IterableDataset[Pair]):
    """Endless batches of a plain numpy generator, int32 [B, L]; a seed for each worker."""

    def __iter__(self) -> Iterator[Pair]:
        worker = get_worker_info()
        generator = PlainNumpyGenerator(SPEC, seed=0 if worker is None else worker.id)
        while True:
            x, y = generator.batch(BATCH_SIZE)
            yield torch.from_numpy(x), torch.from_numpy(y)


def run(url: str, *, rounds: int, seconds: float) -> None:
    """Measures and prints medians of `rounds`, in each of which all are measured in turn."""
    print(
        f"{os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}\n"
        f"V={SPEC.V} n={SPEC.n} l={SPEC.l:g} e={SPEC.e} L={SPEC.L}, batches of {BATCH_SIZE}; "
        f"{url}\nmillion tokens a second out of a DataLoader, medians of {rounds}",
        flush=True,
    )
    with MetaLMClient(url) as client:
        subjects = (PlainDataset(), BatchDataset(client, spec=SPEC, seed=7, batch_size=BATCH_SIZE))
        found: dict[int, list[tuple[float, ...]]] = {workers: [] for workers in _WORKERS}
        for _ in range(rounds):
            for workers, rates in found.items():
                rates.append(tuple(_rate(dataset, workers, seconds) for dataset in subjects))
    print(f"{'workers':>7}  {'plain numpy':>11}  {'BatchDataset':>12}  {'ratio':>5}")
    for workers, rates in found.items():
        plain, ours = (statistics.median(column) for column in zip(*rates, strict=True))
        ratio = statistics.median(mine / other for other, mine in rates)
        print(f"{workers:7}  {plain:11.1f}  {ours:12.1f}  {ratio:5.1f}")


def _rate(dataset: PlainDataset | BatchDataset, workers: int, seconds: float) -> float:
    """Million tokens a second, once the workers have nothing left that they made before."""
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=_PREFETCH if workers else None,
    )
    batches = iter(loader)
    for _ in islice(batches, _PREFETCH * workers + 1):
        pass
    count, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        next(batches)
        count += 1
    return count * TOKENS / elapsed / 1e6


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m metalm.bench.frameworks", description=__doc__)
    parser.add_argument("--url", default="inprocess:", help="of a service (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a single, short round")
    given = parser.parse_args(arguments)
    run(given.url, rounds=1 if given.quick else 7, seconds=0.3 if given.quick else 1.0)


if __name__ == "__main__":
    main()
