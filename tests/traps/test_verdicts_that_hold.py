"""A verdict depends on the network, not on the scale of its loss, its width, or how far the training has come.

Absolute thresholds such as 1e-7 call a converged training "vanishing", and another one healthy because its loss is
multiplied by a thousand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradscope as gs


def backward(loss: Any) -> None:
    loss.backward()


def net(kind: str, width: int) -> nn.Module:
    if kind == "vanishing":
        return gs.lab.mlp(10, width, "sigmoid", "xavier", inputs=16, seed=0)
    if kind == "exploding":
        return gs.lab.mlp(10, width, "tanh", "normal", inputs=16, weight_var=None, std=6 / width**0.5, seed=0)
    return gs.lab.mlp(10, width, "tanh", "xavier", inputs=16, seed=0)


def verdicts(kind: str, folder: Path, scale: float = 1.0, width: int = 64, batch: int = 128) -> list[tuple[str, str]]:
    model = net(kind, width)
    torch.manual_seed(1)
    x, y = torch.randn(batch, 16), torch.randint(0, 10, (batch,))
    with gs.watch(model, out=folder, every=1) as probe:
        backward(scale * F.cross_entropy(model(x), y))
        probe.step()
    return [(finding.code, finding.severity) for finding in gs.diagnose(probe.run)]


EXPECTED = {
    "vanishing": [("vanishing", "critical"), ("forward-collapse", "critical"), ("depth-scale", "note")],
    "exploding": [("exploding", "critical"), ("saturation", "warning"), ("depth-scale", "note")],
    "healthy": [],
}


@pytest.mark.parametrize("kind", EXPECTED)
@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e3, 1e12])
def test_the_scale_of_the_loss_changes_no_verdict(kind: str, scale: float, tmp_path: Path) -> None:
    assert verdicts(kind, tmp_path / "run", scale=scale) == EXPECTED[kind]


@pytest.mark.parametrize("kind", EXPECTED)
@pytest.mark.parametrize(("width", "batch"), [(64, 128), (256, 128), (64, 1024)])
def test_width_and_batch_change_no_verdict(kind: str, width: int, batch: int, tmp_path: Path) -> None:
    assert verdicts(kind, tmp_path / "run", width=width, batch=batch) == EXPECTED[kind]


def train(optimizer: str, folder: Path) -> gs.Run:
    """Train until the loss, and every gradient with it, has fallen by some decades."""
    model = gs.lab.mlp(5, 64, "tanh", "xavier", inputs=16, outputs=2, seed=0)
    parameters = model.parameters()
    stepper = (
        torch.optim.Adam(parameters, lr=3e-3)
        if optimizer == "adam"
        else torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
    )
    torch.manual_seed(0)
    x = torch.randn(64, 16)
    y = (x[:, 0] > 0).long()
    with gs.watch(model, stepper, out=folder, every=50) as probe:
        for _ in range(601):
            stepper.zero_grad()
            backward(F.cross_entropy(model(x), y))
            stepper.step()
    return probe.run


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_converged_training_is_silent(optimizer: str, tmp_path: Path) -> None:
    run = train(optimizer, tmp_path / "run")
    norms = run.frame("output_grad_norm")
    assert (norms.loc[600] < 1e-2 * norms.loc[0]).all()
    assert [finding.code for finding in gs.diagnose(run)] == []
