"""Layers whose weight is computed (weight_norm, spectral_norm, orthogonal, pruning) have the metrics of that weight.

Asking the module for its weight once more would go on with the power iteration of a spectral norm: the weight is the
one that the forward pass used, its gradient dL/dW as autograd gives it. What the optimizer applies to the parts of the
weight is another thing: there is no raw gradient and no update.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mixed_precision import scaler_of
from oracle import loss_of
from shapes import shape
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import gradscope as gs

KINDS = ["weight_norm", "spectral_norm", "orthogonal", "pruned"]


def weights_of(twin: nn.Module, x: Tensor, name: str, parts: int) -> list[list[Tensor]]:
    """Weights of the two layers as used in each micro-batch, with their gradients."""
    used: list[list[Tensor]] = []
    for part in x.chunk(parts):
        weights: list[Tensor] = []
        for layer in (twin.a, twin.b):
            # A pruned weight is made by a hook before each forward pass.
            weight = layer.weight_orig * layer.weight_mask if name == "pruned" else layer.weight
            weight.retain_grad()
            weights.append(weight)
            part = torch.tanh(nn.functional.linear(part, weight, layer.bias))
        loss_of(twin.head(part)).backward()
        used.append(weights)
    return used


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("name", KINDS)
def test_the_weight_of_the_forward_pass_is_measured(name: str, parts: int, tmp_path: Path) -> None:
    """Of micro-batches the last weight counts, and the sum of the gradients."""
    model, twin = shape(name), shape(name)
    x = model.inputs()["x"]
    used = weights_of(twin, x, name, parts)
    with gs.watch(model, out=tmp_path / "run", every=1, metrics="all") as probe:
        for part in x.chunk(parts):
            loss_of(model(part)).backward()
        probe.step()
    run = probe.run
    rms = [float(one.detach().square().mean().sqrt()) for one in used[-1]]
    norms = [float(sum(grads).norm()) for grads in zip(*([one.grad for one in each] for each in used), strict=True)]
    for metric, expected in (("weight_rms", rms), ("weight_grad_norm", norms)):
        found = run.frame(metric).reindex(columns=[1, 2]).to_numpy()[0]
        assert found.tolist() == pytest.approx(expected, rel=1e-6), metric
    for metric in ("weight_grad_norm_raw", "update_ratio"):
        assert run.frame(metric).columns.tolist() in ([], [3]), metric
    text = (
        "its weight is computed (parametrized): recorded as the forward pass used it, with its gradient before "
        "clipping; no raw gradient and no update"
    )
    assert run.coverage["text"].tolist()[:2] == [text] * 2
    assert run.coverage["parameters"].tolist()[:2] == ["part"] * 2


class Shared(nn.Module):
    """A layer that is called twice, with one weight if that is kept in between."""

    def __init__(self, kept: bool) -> None:
        super().__init__()
        self.kept = kept
        self.layer = parametrizations.weight_norm(nn.Linear(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        if not self.kept:
            return self.layer(torch.tanh(self.layer(x)))
        with parametrize.cached():
            return self.layer(torch.tanh(self.layer(x)))


@pytest.mark.parametrize("kept", [False, True])
def test_calls_of_one_layer_add_up(kept: bool, tmp_path: Path) -> None:
    model = Shared(kept)
    x = torch.randn(5, 6)
    weight = model.layer.weight
    weight.retain_grad()
    linear = nn.functional.linear
    linear(torch.tanh(linear(x, weight, model.layer.bias)), weight, model.layer.bias).square().sum().backward()
    assert weight.grad is not None
    model.zero_grad()
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        model(x).square().sum().backward()
        probe.step()
    assert probe.run.profile("weight_grad_norm")[1] == pytest.approx(float(weight.grad.norm()), rel=1e-6)


def test_the_loss_scale_is_taken_off(tmp_path: Path) -> None:
    """The gradient of a computed weight is seen before anything is unscaled."""
    found = []
    for place, scaler in enumerate((None, scaler_of())):
        torch.manual_seed(0)
        model = nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 6)), nn.Tanh(), nn.Linear(6, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with gs.watch(model, optimizer, out=tmp_path / str(place), every=1, scaler=scaler) as probe:
            loss = model(torch.randn(5, 6)).square().sum()
            if scaler is None:
                loss.backward()
                optimizer.step()
            else:
                scaler.scale(loss).backward()
                scaler.unscale_(optimizer)
                scaler.step(optimizer)
                scaler.update()
        found.append(probe.run.profile("weight_grad_norm").tolist())
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_an_adversary_whose_weights_are_all_computed(tmp_path: Path) -> None:
    """A spectral norm on every layer of a critic: its own backward pass counts, though no weight is a parameter."""
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {"generator": nn.Linear(6, 6), "critic": parametrizations.spectral_norm(nn.Linear(6, 1)).eval()}
    )
    slow = torch.optim.SGD(model["generator"].parameters(), lr=0.1)
    fast = torch.optim.SGD(model["critic"].parameters(), lr=0.1)
    x = torch.randn(5, 6)
    with gs.watch(model, [fast, slow], out=tmp_path / "run", every=1) as probe:
        fast.zero_grad()
        model["critic"](x).square().sum().backward()
        expected = float(2 * model["critic"](x).detach().norm())
        fast.step()
        slow.zero_grad()
        model["generator"](x).square().sum().backward()
        slow.step()
    rows = probe.run.rows("output_grad_norm").set_index("layer")["value"]
    assert rows["critic"] == pytest.approx(expected, rel=1e-5)
