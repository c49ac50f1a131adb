"""Only a backward pass that adds to ``.grad`` is an error signal: not the one of a penalty, an attack or a curvature.

What ``torch.autograd.grad`` sends through the layers trains nothing by itself. Where no pass of a step adds to
``.grad`` (gradients taken by ``autograd.grad`` and handed to the optimizer), all of them count.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradscope as gs

DOUBLE = torch.float64


def net(*widths: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for place in range(len(widths) - 1):
        parts += [nn.Linear(widths[place], widths[place + 1]), nn.Tanh()]
    return nn.Sequential(*parts[:-1]).to(DOUBLE)


def kept_outputs(model: nn.Sequential) -> tuple[dict[nn.Module, list[Tensor]], list[torch.utils.hooks.RemovableHandle]]:
    kept: dict[nn.Module, list[Tensor]] = {model[0]: [], model[2]: []}
    return kept, [layer.register_forward_hook(lambda one, _, out: kept[one].append(out)) for layer in kept]


@pytest.mark.parametrize("order", ["penalty first", "penalty last", "penalty alone"])
def test_a_gradient_penalty(order: str, tmp_path: Path) -> None:
    """WGAN-GP: dL/dz of the last layer is not what the penalty's own autograd.grad sent (ones)."""
    torch.manual_seed(0)
    model = net(6, 5, 1)
    x = torch.randn(7, 6, dtype=DOUBLE)

    def loss_of() -> Tensor:
        mixed = x.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(model(mixed).sum(), mixed, create_graph=True)
        penalty = (slope.norm(dim=1) - 1).square().mean()
        if order == "penalty alone":
            return penalty
        return penalty + model(x).mean() if order == "penalty first" else model(x).mean() + penalty

    kept, handles = kept_outputs(model)
    loss = loss_of()
    signals = [torch.autograd.grad(loss, kept[layer], retain_graph=True, allow_unused=True) for layer in kept]
    for handle in handles:
        handle.remove()
    with gs.watch(model, out=tmp_path / "run", every=1, metrics="all") as probe:
        loss_of().backward()
        probe.step()
    found = probe.run.frame("output_grad_norm").reindex(index=[0], columns=[1, 2]).to_numpy()[0]
    for value, parts in zip(found, signals, strict=True):
        norm = math.sqrt(sum(float(part.square().sum()) for part in parts if part is not None))
        assert math.isnan(value) or value == pytest.approx(norm, rel=1e-9)


@pytest.mark.parametrize("attacks", [1, 3])
@pytest.mark.parametrize("shared", [False, True], ids=["graph of its own", "shared graph"])
def test_an_adversarial_training(shared: bool, attacks: int, tmp_path: Path) -> None:
    """FGSM and PGD: autograd.grad with respect to the input, then the training pass proper."""
    torch.manual_seed(0)
    model = net(6, 5, 3)
    x, y = torch.randn(7, 6, dtype=DOUBLE), torch.randint(0, 3, (7,))
    with gs.watch(model, out=tmp_path / "run", every=1, metrics="all") as probe:
        moved = x
        for _ in range(attacks):
            moved = moved.detach().requires_grad_(True)
            loss = F.cross_entropy(model(moved), y)
            (slope,) = torch.autograd.grad(loss, moved, retain_graph=shared)
            if not shared:
                moved = moved + 0.1 * slope.sign()
        if not shared:
            loss = F.cross_entropy(model(moved.detach()), y)
        loss.backward()
        probe.step()
    hidden = model[0](moved)
    (grad,) = torch.autograd.grad(F.cross_entropy(model[2](model[1](hidden)), y), hidden)
    found = probe.run.frame("output_grad_norm").reindex(index=[0], columns=[1]).to_numpy()[0, 0]
    assert math.isnan(found) or found == pytest.approx(float(grad.norm()), rel=1e-9)


def test_curvature_after_backward(tmp_path: Path) -> None:
    """AdaHessian: backward(create_graph=True) trains; the Hessian-vector product that follows does not."""
    torch.manual_seed(0)
    model = net(6, 5, 3)
    x = torch.randn(7, 6, dtype=DOUBLE)
    kept, handles = kept_outputs(model)
    (grad,) = torch.autograd.grad(model(x).square().sum(), kept[model[0]])
    for handle in handles:
        handle.remove()
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        loss = model(x).square().sum()
        with pytest.warns(UserWarning, match="Using backward"):
            loss.backward(create_graph=True)
        parameters = list(model.parameters())
        torch.autograd.grad([one.grad for one in parameters], parameters, [torch.ones_like(one) for one in parameters])
        probe.step()
    for parameter in model.parameters():
        parameter.grad = None
    found = probe.run.frame("output_grad_norm").reindex(index=[0], columns=[1]).to_numpy()[0, 0]
    assert math.isnan(found) or found == pytest.approx(float(grad.norm()), rel=1e-9)


def test_training_by_autograd_grad_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = net(6, 5, 3)
    x = torch.randn(7, 6, dtype=DOUBLE)
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        hidden = model[0](x)
        loss = model[2](model[1](hidden)).square().sum()
        grads = torch.autograd.grad(loss, [hidden, *model.parameters()])
        for parameter, one in zip(model.parameters(), grads[1:], strict=True):
            parameter.grad = one
        probe.step()
    assert probe.run.profile("output_grad_norm")[1] == pytest.approx(float(grads[0].norm()), rel=1e-9)
    assert probe.run.profile("weight_grad_norm")[1] == pytest.approx(float(grads[1].norm()), rel=1e-9)
