"""Function transforms over a watched model work as without the probe, and what is recorded beside them is right.

``torch.func`` runs the forward hooks of a module with tensors of its own, which have neither data nor an ordinary
graph.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap

import gradscope as gs

# What torch says of its own forward mode, of its own scripts.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
DOUBLE = torch.float64


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2)).to(DOUBLE)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: one.detach() for name, one in model.named_parameters()}


def loss_with(model: nn.Module, x: Tensor) -> Callable[[dict[str, Tensor]], Tensor]:
    return lambda parameters: functional_call(model, parameters, (x,)).square().sum()


def dual(model: nn.Module, x: Tensor) -> Tensor:
    with forward_ad.dual_level():
        out = model(forward_ad.make_dual(x, torch.ones_like(x)))
        return forward_ad.unpack_dual(out).tangent.detach().clone()


def ensemble(model: nn.Module, x: Tensor) -> Tensor:
    models = [model, copy.deepcopy(model)]
    parameters, buffers = stack_module_state(models)  # type: ignore[arg-type]
    return vmap(lambda p, b: functional_call(model, (p, b), (x,)))(parameters, buffers)


TRANSFORMS: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "functional_call": lambda model, x: functional_call(model, state(model), (x,)),
    "other parameters": lambda model, x: functional_call(model, {k: 2 * v for k, v in state(model).items()}, (x,)),
    "grad": lambda model, x: grad(loss_with(model, x))(state(model)),
    "grad of the input": lambda model, x: grad(lambda one: model(one).sum())(x),
    "vmap": lambda model, x: vmap(model)(x),
    "vmap over two": lambda model, x: vmap(vmap(model))(x.reshape(2, 3, 4)),
    "gradients by sample": lambda model, x: vmap(
        grad(lambda p, one: functional_call(model, p, (one,)).square().sum()), in_dims=(None, 0)
    )(state(model), x),
    "jacrev": lambda model, x: jacrev(model)(x),
    "jacfwd": lambda model, x: jacfwd(model)(x),
    "hessian": lambda model, x: hessian(lambda one: model(one).square().sum())(x[0]),
    "jvp": lambda model, x: jvp(model, (x,), (torch.ones_like(x),)),
    "vjp": lambda model, x: vjp(model, x)[1](torch.ones(6, 2, dtype=DOUBLE)),
    "forward mode": dual,
    "ensemble": ensemble,
    "jacobian": lambda model, x: torch.autograd.functional.jacobian(model, x),
    "hvp": lambda model, x: torch.autograd.functional.hvp(lambda one: model(one).square().sum(), x, torch.ones_like(x)),
    "saved on the CPU": lambda model, x: on_cpu(model, x),
}


def on_cpu(model: nn.Module, x: Tensor) -> Tensor:
    with torch.autograd.graph.save_on_cpu():
        return model(x)


def leaves(value: Any) -> list[Tensor]:
    return [one.detach() for one in torch.utils._pytree.tree_leaves(value)]


@pytest.mark.parametrize("metrics", ["default", "all"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_works_as_without_a_probe(name: str, metrics: str, tmp_path: Path) -> None:
    x = torch.linspace(-1, 1, 24, dtype=DOUBLE).reshape(6, 4)
    expected = leaves(TRANSFORMS[name](net(), x))
    model = net()
    with gs.watch(model, out=tmp_path / "run", every=1, metrics=metrics) as probe:
        for _ in range(2):
            found = leaves(TRANSFORMS[name](model, x))
            assert len(found) == len(expected)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
            model(x).square().sum().backward()
            probe.step()
            model.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", [name for name in TRANSFORMS if name != "saved on the CPU"])
def test_rows_beside_a_transform(name: str, when: str, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """The training pass beside it is recorded as if it were alone."""
    x = torch.linspace(-1, 1, 24, dtype=DOUBLE).reshape(6, 4)
    runs = []
    for place in range(2):
        model = net()
        with gs.watch(model, out=tmp_path / str(place), every=1, metrics="all") as probe:
            for _ in range(2):
                if place and when == "before":
                    TRANSFORMS[name](model, x)
                model.zero_grad()
                model(x).square().sum().backward()
                if place and when == "after":
                    TRANSFORMS[name](model, x)
                probe.step()
        runs.append(probe.run)
    assert not [one for one in recwarn.list if one.category is UserWarning]
    assert runs[1].layers["call"].tolist() == [1, 1, 1]
    for metric in ("output_grad_norm", "weight_grad_norm", "output_rms", "slope_rms"):
        assert runs[0].frame(metric).equals(runs[1].frame(metric)), metric


def test_a_traced_model_does_not_record(tmp_path: Path) -> None:
    model = net()
    x = torch.ones(6, 4, dtype=DOUBLE)
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        graph = torch.fx.symbolic_trace(model)
        assert torch.equal(graph(x), model(x))
        exported = torch.export.export(copy.deepcopy(model), (x,)).module()
        assert torch.equal(exported(x), model(x))
        model(x).square().sum().backward()
        probe.step()
    assert probe.run.layers["call"].tolist() == [1, 1, 1]
