"""The LSTM (Hochreiter and Schmidhuber 1997): layers of it, one above the other."""

from __future__ import annotations

import torch
from torch import nn

State = tuple[torch.Tensor, torch.Tensor]
"""Outputs and cells, [layers, B, width] each."""


class LSTM(nn.Module):
    """All that it knows of the tokens before is 2 * layers * width numbers."""

    def __init__(self, ids: int, *, layers: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(ids, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)
        self.head = nn.Linear(width, ids)
        for layer in range(layers):
            # Gates in the order of torch: input, forget, cell, output. A fresh cell remembers
            # (Jozefowicz et al. 2015).
            bias = self.lstm.get_parameter(f"bias_ih_l{layer}")
            nn.init.ones_(bias[width : 2 * width].detach())

    def forward(self, x: torch.Tensor, state: State | None = None) -> tuple[torch.Tensor, State]:
        # Autocast would take cuDNN's LSTM to float16, whatever it was asked for, and that needs
        # its losses scaled. In float32 cuDNN uses TF32.
        with torch.autocast(x.device.type, enabled=False):
            hidden, (outputs, cells) = self.lstm(self.embedding(x), state)
        return self.head(hidden), (outputs.detach(), cells.detach())
