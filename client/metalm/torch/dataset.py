"""A dataset of ready batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import xxhash
from torch import distributed
from torch.utils.data import IterableDataset, get_worker_info

from metalm.client import MetaLMClient
from metalm.iterator import BatchIterator
from metalm.schedule import Ranges, merged_ranges
from metalm_proto.batch import Batch
from metalm_proto.errors import InvalidArgument
from metalm_proto.spec import BATCH_SIZE

Pair = tuple[torch.Tensor, torch.Tensor]
"""x and y of a batch, [B, L] each."""


class BatchDataset(IterableDataset[Pair]):
    """Batches of a run as (x, y), tensors [B, L] of the spec's small dtype (uint8, uint16 or
    int32); without workers they share the memory of the batch's arrays.

    For `DataLoader(dataset, batch_size=None, num_workers=W)`: whatever W is, the same batches come
    in the same order. Each worker asks for its own, over connections of its own. An epoch is the
    run from `start` to `stop`, and the next epoch is the same again.

    `rank`, `world_size`: those of torch.distributed where they are not given and it is
    initialised, else 0 and 1. `seed` must be given, for all ranks the same. The other arguments
    are those of `MetaLMClient.batches`, and like it this raises InvalidArgument; but in workers
    `prefetch_bytes` is 0 where it is not given, as the loader has them read ahead anyway.

    Its iterators have `state_dict` and `load_state_dict`, which torchdata's `StatefulDataLoader`
    calls. A single number says as much: see `position_at`.
    """

    def __init__(
        self,
        client: MetaLMClient,
        *,
        seed: int,
        rank: int | None = None,
        world_size: int | None = None,
        skip: Iterable[range | tuple[int, int]] = (),
        **arguments: Any,
    ) -> None:
        if (rank is None) != (world_size is None):
            name = "rank" if rank is None else "world_size"
            raise InvalidArgument(name, None, "given where the other of rank and world_size is")
        if arguments.get("provenance"):
            raise InvalidArgument("provenance", True, "absent: only x and y become tensors")
        self._client = client
        self._place = None if rank is None or world_size is None else (rank, world_size)
        self._arguments = {**arguments, "seed": seed, "skip": merged_ranges(skip)}
        self._run()  # for its checks

    @property
    def place(self) -> tuple[int, int]:
        """Rank and world size."""
        if self._place is not None:
            return self._place
        if distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank(), distributed.get_world_size()
        return 0, 1

    def position_at(self, step: int) -> int:
        """The position after `step` batches of each rank: index of the first sample not yet seen.

        A dataset with this `start` goes on there, with any number of workers and ranks and any
        batch size.
        """
        return self._run().position_at(step)

    def __iter__(self) -> TensorIterator:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        deal = {
            "worker": number,
            "workers": workers,
            "world_size": self.place[1],
            "batch_size": self._arguments.get("batch_size", BATCH_SIZE.default),
            "skip": _digest_of(self._arguments["skip"]),
        }
        run = self._run() if worker is None else self._run(prefetch_bytes=0)
        return TensorIterator(run.dealt(number, workers), deal)

    def __getstate__(self) -> dict[str, Any]:
        # A worker that is spawned knows nothing of its parent's process group.
        return {**vars(self), "_place": self.place}

    def _run(self, **defaults: Any) -> BatchIterator:
        rank, world_size = self.place
        arguments = {**defaults, **self._arguments, "rank": rank, "world_size": world_size}
        return self._client.batches(**arguments)


class TensorIterator(Iterator[Pair]):
    """What one process reads of a `BatchDataset`.

    `deal`: how the run is dealt out to workers, plain JSON types. Where there are several, each
    knows its own steps only, and they go on together only as they were dealt before.
    """

    def __init__(self, batches: BatchIterator, deal: Mapping[str, Any]) -> None:
        self._batches = batches
        self._deal = deal

    def __next__(self) -> Pair:
        return _tensors_of(next(self._batches))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, as plain JSON types, below 1 KiB."""
        return {**self._batches.state_dict(), "deal": dict(self._deal)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where the iterator that gave the state stood.

        Raises InvalidArgument, naming the difference, if it is of another stream, or if one of the
        two is one of several workers and the other is not the same one of as many, with the same
        world size, batch size and skipped samples.
        """
        deal = state.get("deal") if isinstance(state, Mapping) else None
        found = deal if isinstance(deal, Mapping) else {}
        alone = found.get("workers") == self._deal["workers"] == 1
        for name in () if alone else self._deal:
            if found.get(name) != self._deal[name]:
                bound = f"{self._deal[name]}, as here: several workers must go on as they stopped"
                raise InvalidArgument(f"state {name}", found.get(name), bound)
        self._batches.load_state_dict(state)


def _tensors_of(batch: Batch) -> Pair:
    if get_worker_info() is None:
        return torch.from_numpy(batch.x), torch.from_numpy(batch.y)
    # To hand memory from process to process costs more than to copy it: one piece, not two.
    x, y = torch.from_numpy(np.stack((batch.x, batch.y)))
    return x, y


def _digest_of(skip: Ranges) -> str:
    """Skipped ranges may be many, and a state is small."""
    return xxhash.xxh3_64_hexdigest(repr(skip).encode())
