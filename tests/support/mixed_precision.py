"""Trainings with and without a loss scale."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

import gradscope as gs
from gradscope.runs import Run

SCALE = 2.0**16
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    "fused sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, fused=True),
    "fused adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, fused=True),
    "fused adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.01, fused=True),
}
SCALED = "these metrics are of the gradient with its loss scale, as half precision holds it: fp16_underflow_fraction"
UNTOLD = (
    "the loss is scaled ({how}), and watch was not given that scaler: from this step on, error signals and "
    "weight_grad_norm_raw carry the loss scale, and skipped steps are not counted"
)


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


def batches(count: int, size: int = 12) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(size, 6), torch.randint(0, 3, (size,))) for _ in range(count)]


def scaler_of(**options: Any) -> GradScaler:
    return GradScaler("cpu", **{"init_scale": SCALE, **options})


def train(
    folder: Path,
    optimizer_of: Callable[[Any], torch.optim.Optimizer],
    scaler: GradScaler | None,
    *,
    clip: float | None = None,
    told: bool = True,
    spoil: tuple[int, ...] = (),
    steps: int = 4,
    micro_batches: int = 1,
) -> Run:
    """Train with or without a loss scale; at the steps of `spoil` an entry of a weight gradient is infinite."""
    model = net()
    optimizer = optimizer_of(model.parameters())
    with gs.watch(model, optimizer, out=folder, every=1, scaler=scaler if told else None, metrics="all") as probe:
        for step, (x, y) in enumerate(batches(steps)):
            optimizer.zero_grad()
            for rows in torch.arange(len(x)).chunk(micro_batches):
                loss = F.cross_entropy(model(x[rows]), y[rows]) / micro_batches
                (scaler.scale(loss) if scaler else loss).backward()  # type: ignore[no-untyped-call]
            if step in spoil:
                assert model[2].weight.grad is not None
                model[2].weight.grad[0, 0] = torch.inf
            if clip is not None:
                if scaler:
                    scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            if scaler:
                scaler.step(optimizer)
                scaler.update()
            else:
                optimizer.step()
            probe.log(loss=loss, number=step)
    return probe.run


def assert_same(found: Run, expected: Run, rtol: float = 1e-5, but: tuple[str, ...] = ()) -> None:
    assert set(found.metrics) == set(expected.metrics)
    for metric in set(found.metrics) - {"fp16_underflow_fraction", *but}:
        left, right = found.frame(metric), expected.frame(metric)
        np.testing.assert_allclose(left, right, rtol=rtol, atol=1e-30, err_msg=metric)
