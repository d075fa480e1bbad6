"""A plain causal Transformer (Vaswani et al. 2017): every position attends to all before it.

The norms come first in each layer (GPT-2), and positions are rotations of queries and keys (RoPE,
Su et al. 2021), so that attention knows distances and nothing is learnt for a position.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from models.layers import FeedForward, initialise, merge_heads, split_heads, width_of_head

State = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each layer, [B, heads, T, width / heads] each, of all T tokens so far."""


class Transformer(nn.Module):
    """All that it knows of the tokens before are their keys and values: it forgets nothing, and a
    token costs more the more there were."""

    def __init__(self, ids: int, *, layers: int, width: int, heads: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(ids, width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, ids)
        self._width_of_head = width_of_head(width, heads)
        initialise(self, layers)

    def forward(self, x: torch.Tensor, state: State | None = None) -> tuple[torch.Tensor, State]:
        before = state[0][0].shape[2] if state else 0
        rotation = rotations(before, x.shape[1], self._width_of_head, x.device)
        hidden, after = self.embedding(x), []
        for number, layer in enumerate(self.layers):
            hidden, past = layer(hidden, rotation, state[number] if state else None)
            after.append(past)
        return self.head(self.norm(hidden)), after


class Layer(nn.Module):
    """Attention, then a feed-forward network; each adds to what it is given."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width)

    def forward(
        self,
        x: torch.Tensor,  # [B, S, width]
        rotation: torch.Tensor,  # [2, S, width / heads / 2]
        past: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        parts = self.query_key_value(self.attention_norm(x)).chunk(3, -1)
        query, key, value = (split_heads(part, self.heads) for part in parts)
        query, key = rotated(query, rotation), rotated(key, rotation)
        if past is not None:
            key, value = torch.cat((past[0], key), 2), torch.cat((past[1], value), 2)
        x = x + self.output(merge_heads(attention(query, key, value)))
        x = x + self.feed_forward(self.feed_forward_norm(x))
        return x, (key.detach(), value.detach())


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """[B, heads, S, d] for S queries, the last of as many positions as there are keys."""
    count, past = query.shape[2], key.shape[2] - query.shape[2]
    if not past:
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    seen = torch.ones(count, past + count, dtype=torch.bool, device=query.device).tril(past)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)


def rotations(first: int, count: int, width: int, device: torch.device) -> torch.Tensor:
    """Cosine and sine of each position's angle in each plane, [2, count, width / 2]."""
    positions = torch.arange(first, first + count, device=device, dtype=torch.float32)
    planes = torch.arange(0, width, 2, device=device, dtype=torch.float32)
    angles = positions[:, None] * 10000.0 ** (-planes / width)
    return torch.stack((angles.cos(), angles.sin()))


def rotated(x: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """The halves of [B, heads, S, d] are the two coordinates of d / 2 planes."""
    (left, right), (cosine, sine) = x.chunk(2, -1), rotation
    turned = (left * cosine - right * sine, left * sine + right * cosine)
    return torch.cat(turned, -1).type_as(x)
