"""Several forward and backward passes within one step: GAN loops, gradient penalties, validation in between.

Observers that count hook calls take each pass for a step, or raise (wandb#1639); evaluation passes pollute the
statistics of training, or silence them (torchtitan#4148).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam

import gradscope as gs

DOUBLE = torch.float64


def net(*widths: int, kind: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    parts: list[nn.Module] = []
    for place in range(len(widths) - 1):
        parts += [nn.Linear(widths[place], widths[place + 1]), kind()]
    return nn.Sequential(*parts[:-1]).to(DOUBLE)


class Tapped:
    """Hooks of the test's own on the outputs of layers: every gradient that ever arrives."""

    def __init__(self, *layers: nn.Module) -> None:
        self.grads: dict[nn.Module, list[Tensor]] = {layer: [] for layer in layers}
        self.handles = [layer.register_forward_hook(self.keep) for layer in layers]

    def keep(self, layer: nn.Module, _args: object, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda grad: self.grads[layer].append(grad.detach().clone()))

    def norms(self, layer: nn.Module) -> list[float]:
        return [float(grad.norm()) for grad in self.grads[layer]]


@pytest.mark.parametrize("optimizer", [SGD, Adam])
@pytest.mark.parametrize("retain", [False, True], ids=["two passes", "retain_graph"])
def test_a_gan(retain: bool, optimizer: Callable[..., torch.optim.Optimizer], tmp_path: Path) -> None:
    """Steps follow the optimizers: the critic is called two or three times within each."""
    torch.manual_seed(0)
    parts = nn.ModuleDict({"generator": net(4, 6, 6), "critic": net(6, 5, 1)})
    first, second = (optimizer(part.parameters(), lr=0.01) for part in parts.values())
    applied: list[float] = []
    with gs.watch(parts, [first, second], out=tmp_path / "run", every=1, metrics="all") as probe:
        for _ in range(4):
            fake = parts["generator"](torch.randn(8, 4, dtype=DOUBLE))
            second.zero_grad()
            judged = parts["critic"](fake if retain else fake.detach())
            (judged.mean() - parts["critic"](torch.randn(8, 6, dtype=DOUBLE)).mean()).backward(retain_graph=retain)
            second.step()
            first.zero_grad()
            (-parts["critic"](fake).mean()).backward()
            applied.append(float(parts["generator"][0].weight.grad.norm()))
            first.step()
    run = probe.run
    assert run.steps() == [0, 1, 2, 3]
    depth = depth_of(run, "generator.0")
    np.testing.assert_allclose(run.frame("weight_grad_norm")[depth], applied, rtol=1e-9)
    assert not (run.coverage["code"] == "error").any()


def depth_of(run: gs.Run, layer: str) -> int:
    return int(run.layers["depth"][run.layers["layer"] == layer].iloc[0])


def test_losses_propagated_one_by_one_through_one_graph(tmp_path: Path) -> None:
    """Two losses share a forward pass: the error signal is their sum, or it is said that the sum is not known."""
    torch.manual_seed(0)
    model = net(6, 5, 2)
    x = torch.randn(7, 6, dtype=DOUBLE)
    out = model(x)
    (whole,) = torch.autograd.grad((out[:, 0].sum() + out[:, 1].square().sum()), model[0](x), allow_unused=True)
    assert whole is None
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        out = model(x)
        out[:, 0].sum().backward(retain_graph=True)
        out[:, 1].square().sum().backward()
        probe.step()
    run = probe.run
    hidden = model[0](x)
    out = model[2](torch.tanh(hidden))
    (grad,) = torch.autograd.grad(out[:, 0].sum() + out[:, 1].square().sum(), hidden)
    signal = run.frame("output_grad_norm").reindex(index=[0], columns=[1]).to_numpy()[0, 0]
    assert np.isnan(signal) or signal == pytest.approx(float(grad.norm()), rel=1e-9)
    if np.isnan(signal):
        assert set(run.coverage["code"]) == {"repeated"}
    assert run.profile("weight_grad_norm")[1] == pytest.approx(float(model[0].weight.grad.norm()), rel=1e-9)


@pytest.mark.parametrize("order", ["penalty first", "penalty last", "penalty alone"])
def test_a_gradient_penalty(order: str, tmp_path: Path) -> None:
    """Double backward: nothing fails, and the gradients of parameters are those the optimizer applies."""
    torch.manual_seed(0)
    model = net(6, 5, 1)

    def loss_of(model: nn.Module, x: Tensor) -> Tensor:
        mixed = x.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(model(mixed).sum(), mixed, create_graph=True)
        penalty = (slope.norm(dim=1) - 1).square().mean()
        if order == "penalty alone":
            return penalty
        return penalty + model(x).mean() if order == "penalty first" else model(x).mean() + penalty

    x = torch.randn(7, 6, dtype=DOUBLE)
    loss = loss_of(model, x)
    loss.backward()
    expected = [float(layer.weight.grad.norm()) for layer in (model[0], model[2])]
    model.zero_grad()
    with gs.watch(model, out=tmp_path / "run", every=1, metrics="all") as probe:
        loss_of(model, x).backward()
        probe.step()
    run = probe.run
    assert list(run.profile("weight_grad_norm")) == pytest.approx(expected, rel=1e-12)
    assert not (run.coverage["code"] == "error").any()
    assert run.layers["call"].tolist() == [1, 1]


@pytest.mark.parametrize("steps", [1, 3])
def test_backward_with_create_graph(steps: int, tmp_path: Path) -> None:
    """Gradients with a graph of their own, as second-order optimizers and meta-learning ask for."""
    torch.manual_seed(0)
    model = net(6, 5, 2)
    x = torch.randn(7, 6, dtype=DOUBLE)
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        for _ in range(steps):
            model.zero_grad()
            loss = model(x).square().sum()
            grads = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
            sum(grad.square().sum() for grad in grads).backward()
            probe.step()
    found = probe.run.frame("weight_grad_norm").iloc[-1]
    assert found.tolist() == pytest.approx([float(model[0].weight.grad.norm()), float(model[2].weight.grad.norm())])


VALIDATIONS: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "eval": lambda model, x: (model.eval(), model(x), model.train()),
    "no_grad": lambda model, x: torch.no_grad()(model)(x),
    "inference_mode": lambda model, x: torch.inference_mode()(model)(x),
    "eval and no_grad": lambda model, x: (model.eval(), torch.no_grad()(model)(x), model.train()),
    "eval with backward": lambda model, x: (
        model.eval(),
        torch.autograd.grad(model(x.clone().requires_grad_()).sum(), model[0].weight),
        model.train(),
    ),
}


@pytest.mark.parametrize("place", ["before", "between micro-batches", "after backward", "after the step"])
@pytest.mark.parametrize("kind", VALIDATIONS)
def test_validation_in_between_changes_no_row(kind: str, place: str, tmp_path: Path) -> None:
    frames = []
    for validate in (False, True):
        torch.manual_seed(3)
        model = net(6, 5, 3)
        optimizer = SGD(model.parameters(), lr=0.1)
        x, y, other = torch.randn(12, 6, dtype=DOUBLE), torch.randint(0, 3, (12,)), torch.randn(50, 6, dtype=DOUBLE)

        def visit(here: str, model: nn.Module = model, other: Tensor = other, validate: bool = validate) -> None:
            if validate and here == place:
                VALIDATIONS[kind](model, other)

        with gs.watch(model, optimizer, out=tmp_path / str(validate), every=1, metrics="all") as probe:
            for _ in range(2):
                visit("before")
                F.cross_entropy(model(x[:6]), y[:6]).backward()
                visit("between micro-batches")
                F.cross_entropy(model(x[6:]), y[6:]).backward()
                visit("after backward")
                optimizer.step()
                visit("after the step")
                optimizer.zero_grad()
        run = probe.run
        frames.append([run.frame(name) for name in run.metrics])
        assert run.layers["call"].tolist() == [1, 1]
    for bare, validated in zip(*frames, strict=True):
        np.testing.assert_array_equal(bare, validated)


def test_validation_of_another_part(tmp_path: Path) -> None:
    """A training forward pass whose output is thrown away, between the passes that count."""
    torch.manual_seed(0)
    model, x = net(6, 5, 3), torch.randn(4, 6, dtype=DOUBLE)
    tapped = Tapped(model[0], model[2])
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        model(10 * x)
        model(x).square().sum().backward()
        model(10 * x)
        probe.step()
    found = probe.run.profile("output_grad_norm")
    assert list(found) == pytest.approx([*tapped.norms(model[0]), *tapped.norms(model[2])], rel=1e-12)


def test_backward_passes_interleaved_with_forward_passes(tmp_path: Path) -> None:
    """All forward passes first, all backward passes afterwards, in reverse."""
    torch.manual_seed(0)
    model = net(6, 5, 3)
    tapped = Tapped(model[0], model[2])
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        losses = [model(torch.randn(4, 6, dtype=DOUBLE)).square().sum() for _ in range(3)]
        for loss in reversed(losses):
            loss.backward()
        probe.step()
    expected = [float(torch.cat(tapped.grads[layer]).norm()) for layer in (model[0], model[2])]
    assert list(probe.run.profile("output_grad_norm")) == pytest.approx(expected, rel=1e-12)


def test_two_forward_passes_into_one_loss(tmp_path: Path) -> None:
    """Contrastive training: two views of a batch pass one after the other, one loss joins them."""
    torch.manual_seed(0)
    model = net(6, 5, 3)
    tapped = Tapped(model[0], model[2])
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        a, b = (model(torch.randn(4, 6, dtype=DOUBLE)) for _ in range(2))
        (a @ b.T).logsumexp(1).sum().backward()
        probe.step()
    expected = [float(torch.cat(tapped.grads[layer]).norm()) for layer in (model[0], model[2])]
    assert list(probe.run.profile("output_grad_norm")) == pytest.approx(expected, rel=1e-12)
    assert probe.run.layers["call"].tolist() == [1, 1]
