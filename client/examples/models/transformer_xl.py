"""Transformer-XL (Dai et al. 2019): attention to the segment and to a memory of the tokens before,
by content and by distance.

The memory of a layer is what the layer was given for those tokens, so that what is known reaches
further back by a memory with each layer. Unlike the paper's, the norms come first in each layer: it
trains without care.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from models.layers import FeedForward, initialise, merge_heads, split_heads, width_of_head

State = list[torch.Tensor]
"""The memory of each layer, [B, M, width], of the last M <= memory tokens."""


class TransformerXL(nn.Module):
    """memory: tokens before a segment that it attends to."""

    def __init__(self, ids: int, *, layers: int, width: int, heads: int, memory: int) -> None:
        super().__init__()
        self.memory = memory
        self.embedding = nn.Embedding(ids, width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, ids)
        initialise(self, layers)

    def forward(self, x: torch.Tensor, state: State | None = None) -> tuple[torch.Tensor, State]:
        hidden, after = self.embedding(x), []
        if state is None:
            state = [hidden[:, :0]] * len(self.layers)
        count = state[0].shape[1] + x.shape[1]
        distances = encodings(count, hidden.shape[2], x.device).type_as(hidden)
        for layer, memory in zip(self.layers, state, strict=True):
            context = torch.cat((memory, hidden), 1)
            after.append(context[:, max(0, context.shape[1] - self.memory) :].detach())
            hidden = layer(context, x.shape[1], distances)
        return self.head(self.norm(hidden)), after


class Layer(nn.Module):
    """Attention, then a feed-forward network; each adds to what it is given."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = RelativeAttention(width, heads)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width)

    def forward(self, context: torch.Tensor, count: int, distances: torch.Tensor) -> torch.Tensor:
        """[B, count, width], of the last `count` tokens of a context [B, T, width]."""
        x = context[:, -count:]
        x = x + self.attention(self.attention_norm(context), count, distances)
        return x + self.feed_forward(self.feed_forward_norm(x))


class RelativeAttention(nn.Module):
    """Section 3.3 of the paper, whose names stand in the comments."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)  # W_k,E and W_v
        self.position_key = nn.Linear(width, width, bias=False)  # W_k,R
        shape = (heads, 1, width_of_head(width, heads))
        self.content_bias = nn.Parameter(torch.zeros(shape))  # u
        self.position_bias = nn.Parameter(torch.zeros(shape))  # v
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, context: torch.Tensor, count: int, distances: torch.Tensor) -> torch.Tensor:
        query = split_heads(self.query(context[:, -count:]), self.heads)  # [B, heads, S, d]
        parts = self.key_value(context).chunk(2, -1)
        key, value = (split_heads(part, self.heads) for part in parts)  # [B, heads, T, d]
        position_key = split_heads(self.position_key(distances)[None], self.heads)
        by_content = (query + self.content_bias) @ key.transpose(-1, -2)  # (a) and (c)
        by_distance = (query + self.position_bias) @ position_key.transpose(-1, -2)  # (b) and (d)
        scores = (by_content + shifted(by_distance)) / math.sqrt(query.shape[-1])
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
        scores = scores.masked_fill(future.triu(1 + key.shape[2] - count), -math.inf)
        return self.output(merge_heads(scores.softmax(-1) @ value))


def encodings(count: int, width: int, device: torch.device) -> torch.Tensor:
    """R: sinusoids of the distances count - 1, …, 1, 0, [count, width]."""
    distances = torch.arange(count - 1, -1, -1, device=device, dtype=torch.float32)
    planes = torch.arange(0, width, 2, device=device, dtype=torch.float32)
    angles = distances[:, None] * 10000.0 ** (-planes / width)
    return torch.cat((angles.sin(), angles.cos()), -1)


def shifted(scores: torch.Tensor) -> torch.Tensor:
    """From columns by distance, T - 1 to 0, to columns by key (appendix B of the paper).

    scores: [B, heads, S, T]. In row i the key j is at distance T - S + i - j, which stands in
    column S - 1 - i + j; what comes out above the diagonal, of keys in the future, means nothing.
    """
    rows, columns = scores.shape[-2:]
    padded = functional.pad(scores, (1, 0)).flatten(-2)
    return padded[..., rows:].unflatten(-1, (rows, columns))
