"""Trainings in which a fixed sample is measured."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import gradscope as gs


def data(count: int = 96, features: int = 6) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(count, features, generator=draw)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def net(*between: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), *between, nn.Tanh(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def train(model: nn.Module, steps: int, out: Path | None = None, **options: Any) -> list[float]:
    """Train with everything random that a training can have; return the losses."""
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    probe = gs.watch(model, optimizer, out=out, **options) if out is not None else None
    losses = []
    for _ in range(steps):
        x = torch.randn(16, 6) + random.random() + np.random.rand()  # noqa: NPY002
        loss = nn.functional.cross_entropy(model(x), torch.randint(3, (16,)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if probe is not None:
            probe.log(loss=loss)
    if probe is not None:
        probe.close()
    return losses


def loaded(path: Path) -> gs.Run:
    run = gs.load(path)
    assert isinstance(run, gs.Run)
    return run
