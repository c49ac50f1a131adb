"""A small training whose memory and calls can be counted."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import nn


class Training:
    """A chain of small layers that trains; gradients are freed after each step."""

    def __init__(self, depth: int, width: int = 8, batch: int = 4) -> None:
        torch.manual_seed(0)
        pairs = [(nn.Linear(width, width), nn.Tanh()) for _ in range(depth)]
        self.model = nn.Sequential(*itertools.chain(*pairs), nn.Linear(width, 2))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        self.x, self.y = torch.randn(batch, width), torch.randint(2, (batch,))

    def step(self) -> None:
        loss = F.cross_entropy(self.model(self.x), self.y)
        loss.backward()  # type: ignore[no-untyped-call]
        del loss
        self.optimizer.step()
        self.optimizer.zero_grad()
