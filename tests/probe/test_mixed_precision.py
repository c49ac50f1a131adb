"""Mixed precision seen from inside: histograms without the loss scale, raw gradients of a GAN, split optimizers."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mixed_precision import OPTIMIZERS, batches, net, scaler_of, train
from torch import nn

import gradscope as gs


def test_histograms_of_gradients_carry_no_loss_scale(tmp_path: Path) -> None:
    """A scale of 2^16 shifts `lowest` of output_grad by 16 (weight_grad: by what is left when it is applied)."""
    bare = train(tmp_path / "bare", OPTIMIZERS["fused sgd"], None, steps=1)
    scaled = train(tmp_path / "scaled", OPTIMIZERS["fused sgd"], scaler_of(), steps=1)
    a, b = bare.histograms, scaled.histograms
    for quantity in ("output_grad", "weight_grad"):
        left, right = a[a["quantity"] == quantity], b[b["quantity"] == quantity]
        assert left["lowest"].tolist() == right["lowest"].tolist(), quantity


def test_the_raw_gradient_is_that_of_the_step_of_its_own_optimizer(tmp_path: Path) -> None:
    """In a GAN the generator's backward pass reaches the critic after the critic's optimizer has stepped: what it
    leaves on the critic's gradients is not what the critic's optimizer got, before clipping or after."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"generator": nn.Linear(6, 6), "critic": nn.Linear(6, 1)})
    slow = torch.optim.SGD(model["generator"].parameters(), lr=0.05)
    fast = torch.optim.SGD(model["critic"].parameters(), lr=0.05)
    x = torch.randn(12, 6)
    with gs.watch(model, [fast, slow], out=tmp_path / "run", every=1) as probe:
        fast.zero_grad()
        (model["critic"](x).mean() - model["critic"](model["generator"](x).detach()).mean()).backward()
        expected = float(model["critic"].weight.grad.norm())
        fast.step()
        slow.zero_grad()
        model["critic"](model["generator"](x)).mean().backward()
        slow.step()
    rows = probe.run.rows("weight_grad_norm_raw").set_index("layer")["value"]
    assert rows["critic"] == pytest.approx(expected, rel=1e-6)


def test_infinite_gradients_warn_of_nothing(tmp_path: Path) -> None:
    """input_share of inf / inf is NaN, and no RuntimeWarning of numpy (an error here, a fault of the metric)."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
        with gs.watch(model, out=tmp_path / "run", every=1) as probe:
            (model(torch.randn(4, 6)).mean() * torch.inf).backward()
            probe.step()
    assert probe.run.events.empty


def test_the_cost_counts_hooks_of_the_backward_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A metric that takes 20 ms in the backward pass, by a clock that only it moves, is all the cost."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)

    @gs.metric(label="Slow")
    def slow_one(output_grad: torch.Tensor) -> float:
        clock.now += 0.02
        return 0.0

    try:
        model = net()
        with gs.watch(model, out=tmp_path / "run", every=1, metrics="slow_one") as probe:
            for x, _ in batches(5):
                model(x).square().mean().backward()
                clock.now += 0.01  # of the training's own
                probe.step()
        assert probe.cost > 0.8
    finally:
        from gradscope.metrics import unregister

        unregister("slow_one")
