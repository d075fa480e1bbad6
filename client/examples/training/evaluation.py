"""A model's losses on samples that it was not trained on, position by position."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from metalm import MetaLMClient
from metalm.eval import EvaluationSet
from training.trainer import Trainer


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What a model said of the samples, which are neighbours: log_probs float32 [N, L],
    ln p(y[t] | x[0..t]) in nats of each target."""

    samples: EvaluationSet
    log_probs: NDArray[np.float32]

    @property
    def nll(self) -> float:
        """Nats a token, over all samples and positions."""
        return -float(self.log_probs.mean(dtype=np.float64))

    def nll_by_position(self, parts: int = 16) -> list[float]:
        """The same for each of so many parts of the sequence, as equal as can be."""
        curve = -self.log_probs.mean(0, dtype=np.float64)
        return [float(part.mean()) for part in np.array_split(curve, min(parts, len(curve)))]

    def save(self, path: Path, label: str) -> None:
        """An npz for `metalm evaluate`."""
        ((first, _),) = self.samples.ranges
        unfinished = path.with_suffix(".tmp")
        with open(unfinished, "wb") as stream:
            np.savez(
                stream,
                log_probs=self.log_probs,
                spec=json.dumps(self.samples.spec.as_dict()),
                seed=np.uint64(self.samples.seed),
                split=str(self.samples.split),
                first=np.uint64(first),
                label=label,
            )
        unfinished.replace(path)


def evaluate(
    trainer: Trainer, client: MetaLMClient, samples: EvaluationSet, *, batch_size: int
) -> Evaluation:
    """The batch size is of no influence beyond rounding. Raises MetaLMError as the client does."""
    ((start, stop),) = samples.ranges
    found = []
    with client.batches(
        spec=samples.spec,
        seed=samples.seed,
        split=samples.split,
        start=start,
        stop=stop,
        batch_size=batch_size,
    ) as batches:
        for batch in batches:
            x, y = (torch.as_tensor(part).to(trainer.device).long() for part in batch)
            found.append(-trainer.losses_on(x, y).cpu().numpy())
    return Evaluation(samples=samples, log_probs=np.concatenate(found))
