"""The reference models: a module for each, and one interface.

    logits, state = model(x, state)

x: int64 [B, S], the next S tokens of B sequences. logits: [B, S, ids], of the token that follows
each position; `ids` is `Spec.vocabulary`. state: what the tokens before have left, None where there
are none. It carries no gradient, so that a sequence of any length is trained on in segments.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from models.lstm import LSTM
from models.transformer import Transformer
from models.transformer_xl import TransformerXL


@dataclass(frozen=True, kw_only=True)
class Size:
    """layers; width: d_model; heads: of attention (an LSTM has none); segment: tokens through which
    the gradient goes, and which a Transformer-XL remembers (None: the whole sequence)."""

    layers: int
    width: int
    heads: int = 1
    segment: int | None = None


REFERENCE = {
    # These two as the README of MetaLM has them.
    "lstm": Size(layers=4, width=512, segment=128),
    "txl": Size(layers=6, width=512, heads=16, segment=128),
    "transformer": Size(layers=6, width=512, heads=16),
}


def build(name: str, ids: int, size: Size) -> nn.Module:
    """A model with fresh weights, drawn from torch's generator. Raises KeyError for another name
    than those of `REFERENCE`, ValueError for a width that the heads cannot share."""
    if name == "lstm":
        return LSTM(ids, layers=size.layers, width=size.width)
    shape = {"layers": size.layers, "width": size.width, "heads": size.heads}
    if name == "transformer":
        return Transformer(ids, **shape)
    if name == "txl":
        if size.segment is None:
            raise ValueError("segment is None; a Transformer-XL needs the length of its memory")
        return TransformerXL(ids, **shape, memory=size.segment)
    raise KeyError(name)
