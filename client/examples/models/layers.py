"""What the two Transformers share."""

from __future__ import annotations

import math

import torch
from torch import nn


class FeedForward(nn.Sequential):
    """The same two layers at each position, four times as wide in between."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


def width_of_head(width: int, heads: int) -> int:
    """Raises ValueError where the heads cannot share the width."""
    if width % (2 * heads):
        raise ValueError(
            f"width is {width}; it must be a multiple of {2 * heads} for {heads} heads"
        )
    return width // heads


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """[B, T, D] as [B, heads, T, D / heads]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: torch.Tensor) -> torch.Tensor:
    """[B, heads, T, d] as [B, T, heads * d]."""
    return x.transpose(1, 2).flatten(2)


def initialise(model: nn.Module, layers: int) -> None:
    """Tokens are standard normal vectors, and a matrix hands on values about as large as those that
    it is given, at any width: normal, 1 / sqrt(inputs) wide (LeCun et al. 1998), and narrower by
    the square root of the number of additions where a layer adds to the residual stream (Radford
    et al. 2019).

    GPT-2's 0.02 at every width leaves the attention of a narrow model all but uniform, and such a
    model needs several times as many tokens before it begins to copy.
    """
    for name, weights in model.named_parameters():
        if weights.dim() != 2:
            continue
        adds = name.endswith(("output.weight", "feed_forward.2.weight"))
        additions = 2 * layers if adds else 1
        inputs = 1 if name == "embedding.weight" else weights.shape[1]
        nn.init.normal_(weights, std=1 / math.sqrt(inputs * additions))
