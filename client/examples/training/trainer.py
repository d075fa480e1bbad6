"""Weights, their optimiser, and a step of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from models import build
from training.recipe import Recipe


class Trainer:
    """A model of `ids` token ids on a device, and what trains it.

    With precision bfloat16 autocast computes the products in it; weights, sums and losses are
    float32. `step`: how many were made.
    """

    def __init__(self, recipe: Recipe, ids: int, device: torch.device) -> None:
        torch.manual_seed(recipe.model_seed)
        self.step = 0
        self.model = build(recipe.model, ids, recipe.size).to(device)
        self.device = device
        self._recipe = recipe
        self._optimiser = torch.optim.AdamW(
            self.model.parameters(),
            betas=(0.9, 0.98),
            weight_decay=recipe.weight_decay,
            fused=device.type in ("cpu", "cuda"),
        )

    def train_on(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """A step: an update of the weights for each segment of the batch, one after another.

        x, y: int64 [B, L] on the device. Each segment starts from the state that those before it
        left, and no gradient goes back beyond its start. The mean loss in nats a token, a scalar
        on the device: nothing here waits for it.
        """
        self.model.train()
        for group in self._optimiser.param_groups:
            group["lr"] = self._recipe.rate_at(self.step)
        total = torch.zeros((), device=self.device)
        for losses in self._losses(x, y):
            self._optimiser.zero_grad()
            losses.mean().backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self._recipe.clip)
            self._optimiser.step()
            total += losses.detach().sum()
        self.step += 1
        return total / y.numel()

    def losses_on(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """-ln p(y[t] | x[0..t]) in nats, float32 [B, L], of the model as it is."""
        self.model.eval()
        with torch.no_grad():
            return torch.cat(list(self._losses(x, y)), 1)

    def state_dict(self) -> dict[str, Any]:
        """All that the steps to come depend on, beside recipe and data."""
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "random": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where the trainer stood that gave the state."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self._optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and "random_cuda" in state:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)

    def _losses(self, x: torch.Tensor, y: torch.Tensor) -> Iterator[torch.Tensor]:
        """Of each segment in its turn, [B, S]; the weights may change between two."""
        length = self._recipe.size.segment or x.shape[1]
        reduced = self._recipe.precision == "bfloat16"
        state = None
        for x_part, y_part in zip(x.split(length, 1), y.split(length, 1), strict=True):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=reduced):
                logits, state = self.model(x_part, state)
            # [B, ids, S] is the order that cross_entropy wants.
            yield functional.cross_entropy(logits.float().mT, y_part, reduction="none")
