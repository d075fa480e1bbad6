"""What a run is, beside its data."""

from __future__ import annotations

import math
from dataclasses import dataclass

from models import REFERENCE, Size


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that the weights depend on, beside the data.

    model: a name of `models.REFERENCE`, of that `size`. steps: batches, of `batch_size` sequences.
    learning_rate: the highest; it is reached after `warmup` steps and falls to a tenth of it by the
    last. clip: largest norm of a gradient. precision: of the products, "float32" or "bfloat16".
    model_seed: of the first weights.
    """

    model: str
    size: Size
    steps: int
    batch_size: int
    learning_rate: float
    warmup: int
    clip: float = 1.0
    weight_decay: float = 0.01
    precision: str = "float32"
    model_seed: int = 0

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, 0 <= step < steps: a line up, then half a cosine down."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.1 + 0.9 * (1 + math.cos(math.pi * min(done, 1))) / 2)


RECIPES = {
    recipe.model: recipe
    for recipe in (
        Recipe(
            model="lstm",
            size=REFERENCE["lstm"],
            steps=1000,
            batch_size=256,
            learning_rate=1e-3,
            warmup=20,
        ),
        Recipe(
            model="txl",
            size=REFERENCE["txl"],
            steps=4000,
            batch_size=64,
            learning_rate=3e-4,
            warmup=100,
        ),
        Recipe(
            model="transformer",
            size=REFERENCE["transformer"],
            steps=4000,
            batch_size=64,
            learning_rate=6e-4,
            warmup=100,
        ),
    )
}
"""For the full size, a billion tokens of MetaLM(64, 10, 32, .10, 4096). Planned, not tuned."""
