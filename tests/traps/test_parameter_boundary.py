"""Parameters are read where the step ends, so that they are what the optimizer applies.

A hook in the middle of the backward pass sees ``p.grad`` missing or stale (pytorch#149938), a hook on a parameter sees
one micro-batch (pytorch#76464); layers that are thawed later never appear, and frozen ones pass for vanishing
(wandb#2625).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from trainings import OPTIMIZERS

import gradscope as gs

DOUBLE = torch.float64


def net(dtype: torch.dtype = DOUBLE) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).to(dtype)


LAYERS = (0, 2, 4)
CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "nothing": lambda model: None,
    "clipped norm": lambda model: nn.utils.clip_grad_norm_(model.parameters(), 0.01),
    "clipped norm, foreach": lambda model: nn.utils.clip_grad_norm_(model.parameters(), 0.01, foreach=True),
    "clipped values": lambda model: nn.utils.clip_grad_value_(model.parameters(), 1e-3),
    "replaced": lambda model: [setattr(one, "grad", 2 * one.grad) for one in model.parameters()],
    "noise": lambda model: [one.grad.add_(torch.ones_like(one)) for one in model.parameters()],
    "centralized": lambda model: [one.grad.sub_(one.grad.mean()) for one in model.parameters()],
    "dropped": lambda model: [setattr(model[2].weight, "grad", None)],
}


def norms(model: nn.Module) -> list[float]:
    grads = [model[place].weight.grad for place in LAYERS]
    return [np.nan if grad is None else float(grad.norm()) for grad in grads]


@pytest.mark.parametrize("micro_batches", [1, 3])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if "LBFGS" not in name])
def test_the_recorded_gradient_is_what_the_optimizer_applies(
    name: str, change: str, micro_batches: int, tmp_path: Path
) -> None:
    model = net()
    optimizer = OPTIMIZERS[name](model.parameters())
    x, y = torch.randn(12, 6, dtype=DOUBLE), torch.randint(0, 3, (12,))
    raw, applied, moved = [], [], []
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1, metrics="weights") as probe:
        for _ in range(2):
            for rows in torch.arange(12).chunk(micro_batches):
                (F.cross_entropy(model(x[rows]), y[rows]) / micro_batches).backward()
            raw.append(norms(model))
            CHANGES[change](model)
            applied.append(norms(model))
            before = [model[place].weight.detach().clone() for place in LAYERS]
            optimizer.step()
            moved.append(
                [
                    float((model[at].weight.detach() - was).norm() / was.norm())
                    for at, was in zip(LAYERS, before, strict=True)
                ]
            )
            optimizer.zero_grad()
    run = probe.run

    def found(metric: str) -> np.ndarray:
        return run.frame(metric).reindex(columns=[1, 2, 3]).to_numpy()

    np.testing.assert_allclose(found("weight_grad_norm"), applied, rtol=1e-12)
    np.testing.assert_allclose(found("weight_grad_norm_raw"), raw, rtol=1e-12)
    if change != "dropped":
        np.testing.assert_allclose(found("update_ratio"), moved, rtol=1e-5)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_left_from_before_the_first_step(set_to_none: bool, tmp_path: Path) -> None:
    """A stale gradient belongs to the step that applies it."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(12, 6, dtype=DOUBLE)
    model(x).square().sum().backward()
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1) as probe:
        model(x).square().sum().backward()
        applied = norms(model)
        optimizer.step()
        optimizer.zero_grad(set_to_none=set_to_none)
    assert probe.run.profile("weight_grad_norm").tolist() == pytest.approx(applied, rel=1e-12)


@pytest.mark.parametrize("how", ["all at once", "one by one", "replaced parameter group"])
@pytest.mark.parametrize("every", [1, 2])
def test_layers_that_are_thawed_appear(how: str, every: int, tmp_path: Path) -> None:
    model = net()
    frozen = [model[0], model[2]]
    for layer in frozen:
        layer.requires_grad_(False)
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.SGD(trained if how == "replaced parameter group" else model.parameters(), lr=0.01)
    x = torch.randn(12, 6, dtype=DOUBLE)
    with gs.watch(model, optimizer, out=tmp_path / "run", every=every) as probe:
        for step in range(10):
            if step in (4, 6):
                for layer in [frozen.pop()] if how == "one by one" else frozen[:]:
                    layer.requires_grad_(True)
                    if how == "replaced parameter group" and step == 4:
                        optimizer.add_param_group({"params": list(layer.parameters())})
            model(x).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    run = probe.run
    first_of = {1: 6 if how == "one by one" else 4, 2: 4, 3: 0}
    for metric in ("output_grad_norm", "weight_grad_norm"):
        frame = run.frame(metric).reindex(columns=[1, 2, 3])
        for depth, first in first_of.items():
            assert frame[depth].notna().tolist() == [step >= first for step in frame.index], (metric, depth)
    assert "vanishing" not in gs.diagnose(run).codes
    assert (run.frame("output_rms").reindex(columns=[1, 2, 3]).notna()).all(axis=None)


@pytest.mark.parametrize("what", ["first", "middle", "last", "bias only", "weight only", "all but the head"])
def test_frozen_layers_are_said_to_be_frozen(what: str, tmp_path: Path) -> None:
    model = net()
    chosen: dict[str, list[Tensor]] = {
        "first": list(model[0].parameters()),
        "middle": list(model[2].parameters()),
        "last": list(model[4].parameters()),
        "bias only": [model[2].bias],
        "weight only": [model[2].weight],
        "all but the head": [*model[0].parameters(), *model[2].parameters()],
    }
    for parameter in chosen[what]:
        parameter.requires_grad_(False)
    x = torch.randn(12, 6, dtype=DOUBLE)
    with gs.watch(model, out=tmp_path / "run", every=1, metrics="all") as probe:
        model(x).square().sum().backward()
        probe.step()
    run = probe.run
    np.testing.assert_allclose(run.frame("weight_grad_norm").reindex(columns=[1, 2, 3]).to_numpy()[0], norms(model))
    codes = run.coverage.set_index("layer")["code"].tolist()
    silent = {"first": 1, "all but the head": 2}.get(what, 0)
    assert codes[:silent] == ["no_gradient"] * silent
    frozen = {"middle": 1, "last": 2, "weight only": 1}.get(what)
    assert frozen is None or codes[frozen] == "frozen"
    assert run.frame("output_grad_norm").shape[1] == 3 - silent


@pytest.mark.parametrize("held", [True, False], ids=["held by the optimizer", "not held"])
def test_a_frozen_weight_has_no_update(held: bool, tmp_path: Path) -> None:
    """Frozen is not unchanged: null, whether or not the optimizer holds the weight."""
    model = net()
    model[2].weight.requires_grad_(False)
    chosen = [one for one in model.parameters() if held or one.requires_grad]
    optimizer = torch.optim.SGD(chosen, lr=0.1)
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1) as probe:
        model(torch.randn(12, 6, dtype=DOUBLE)).square().sum().backward()
        optimizer.step()
    found = probe.run.frame("update_ratio").reindex(columns=[1, 2, 3])
    assert found.notna().to_numpy().tolist() == [[True, False, True]]
