"""A rank of a run, as a process: prints what it trains on, and waits to be killed.

python -m tests.frameworks.training RENDEZVOUS RANK WORLD_SIZE START WORKERS PAUSE_AT
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from torch import distributed
from torch.utils.data import DataLoader

from metalm import MetaLMClient
from metalm.torch import BatchDataset, DeviceFeed

RUN: dict[str, Any] = {"V": 8, "n": 3, "l": 4, "L": 16, "seed": 7, "batch_size": 3, "stop": 50}


def main(rendezvous: str, *numbers: str) -> None:
    rank, world_size, start, workers, pause_at = map(int, numbers)
    distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size
    )
    dataset = BatchDataset(MetaLMClient(), **RUN, start=start)
    loader = DataLoader(dataset, batch_size=None, num_workers=workers)
    for step, (x, _) in enumerate(DeviceFeed(loader, "cpu"), 1):
        gradient = torch.ones(1)
        distributed.all_reduce(gradient)
        assert gradient.item() == world_size
        print(json.dumps({"position": dataset.position_at(step), "x": x.tolist()}), flush=True)
        if step == pause_at:
            sys.stdin.read()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
