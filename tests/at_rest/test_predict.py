"""What theory predicts of chains of linear layers, against what a probe measures at the first step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from forecasts import allowed, batch, compared, covered, off_by, slope_off
from torch import nn

import gradscope as gs
from gradscope.theory import kappa

OF_LARGE_OUTPUTS = (
    "approximate: gradients are taken not to depend on the weights, but outputs are so large that the loss's do"
)
COLUMNS = ["step", "depth", "layer", "metric", "value", "low", "high", "source", "status"]


@pytest.mark.parametrize("init", ["default", "xavier_uniform", "kaiming_normal"])
@pytest.mark.parametrize(
    "activation",
    ["identity", "sigmoid", "tanh", "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "softsign"],
)
def test_the_decay_of_the_error_signal(activation: str, init: str, tmp_path: Path) -> None:
    depth, width, seeds = 12, 256, 3
    x, y = batch(32, 256)
    rows = compared(
        lambda seed: gs.lab.mlp(depth, width, activation, init, inputs=256, seed=seed), x, y, tmp_path, seeds
    )
    if rows["status"].str.contains("sensitive").any():
        assert (activation, init) in [("gelu", "kaiming_normal"), ("silu", "kaiming_normal")]
        return
    assert abs(slope_off(rows, depth)) <= allowed(kappa(activation), width, depth - 1, seeds)
    assert covered(rows, "output_grad_norm") >= 0.85
    known = {"", "approximate: below the rounding of float32"}
    of_weights = rows["metric"].str.startswith("weight_grad")
    assert set(rows.loc[~of_weights, "status"]) <= known
    assert set(rows.loc[of_weights, "status"]) <= known | {OF_LARGE_OUTPUTS}


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "selu"])
def test_what_flows_forward_and_reaches_the_weights(activation: str, tmp_path: Path) -> None:
    x, y = batch(64, 64)
    rows = compared(lambda seed: gs.lab.mlp(12, 512, activation, "xavier_normal", seed=seed), x, y, tmp_path)
    # Three networks: the noise of q at 512 units and 12 layers, and of the head, which has 10.
    limits = {"slope_rms": 0.05, "activation_std": 0.15, "output_rms": 0.3, "weight_grad_norm": 0.35}
    for metric, limit in {**limits, "output_grad_norm": 0.2}.items():
        assert off_by(rows, metric) < limit, metric
        assert covered(rows, metric) >= 0.75, metric


def test_what_is_known_beforehand_has_no_band() -> None:
    x, y = batch(64, 64)
    first, head = nn.Linear(64, 64), nn.Linear(64, 10)
    model = nn.Sequential(first, nn.Tanh(), head)
    frame = gs.predict(model, x, y)
    values = {(str(row.metric), row.depth): row for row in frame.itertuples()}
    (grad,) = torch.autograd.grad(F.cross_entropy(model(x), y), head.weight)
    assert values["output_rms", 1].value == pytest.approx(float(first(x).detach().square().mean()) ** 0.5)
    assert values["weight_grad_norm", 2].value == pytest.approx(float(grad.norm()), rel=1e-5)
    for known in (("output_rms", 1), ("weight_grad_norm", 2), ("output_grad_norm", 2)):
        assert float(values[known].high) < 1.0001 * float(values[known].low)  # type: ignore[arg-type]


def test_signals_below_all_rounding(tmp_path: Path) -> None:
    x, y = batch(16, 64)
    rows = compared(
        lambda seed: gs.lab.mlp(24, 256, "sigmoid", "lecun_normal", seed=seed, dtype="float64"),
        x.double(),
        y,
        tmp_path,
        2,
    )
    spread = rows[rows["metric"] == "sample_spread"]
    assert spread["value"].min() < 1e-12
    assert spread["log"].abs().max() < 0.5
    single = gs.predict(gs.lab.mlp(24, 256, "sigmoid", "lecun_normal", seed=0), x, y).query("metric == 'sample_spread'")
    assert single["status"].iloc[-1] == "approximate: below the rounding of float32"


def test_the_frame() -> None:
    x, y = batch(8, 64)
    frame = gs.predict(gs.lab.mlp(2, 16, "relu", seed=0), x, y)
    assert list(frame.columns) == COLUMNS
    assert set(frame["source"]) == {"theory"}
    assert set(frame["step"]) == {0}
    count = frame.groupby("metric", sort=False).size()
    assert count.to_dict() == {
        "output_rms": 3,
        "sample_spread": 3,
        "activation_std": 2,
        "slope_rms": 2,
        "output_grad_norm": 3,
        "output_grad_rms": 3,
        "weight_grad_norm": 3,
        "weight_grad_rms": 3,
    }
    assert frame["layer"].unique().tolist() == ["hidden.0.linear", "hidden.1.linear", "head"]
    assert (frame["low"] <= frame["value"]).all()
    assert (frame["value"] <= frame["high"]).all()
    norms = frame.set_index(["metric", "depth"])["value"]
    assert norms["output_grad_rms", 1] == pytest.approx(norms["output_grad_norm", 1] / math.sqrt(8 * 16))


def test_without_targets_gradients_are_those_of_labels_drawn_at_random() -> None:
    x, _ = batch(256, 64)
    model = gs.lab.mlp(2, 64, seed=0)
    frame = gs.predict(model, x).query("metric == 'output_grad_norm'")
    p = model(x).detach().softmax(1)
    expected = (p.square().sum(1) + 1 - 2 / 10).sum().sqrt() / 256
    assert frame["value"].iloc[-1] == pytest.approx(float(expected), rel=0.02)
    single = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    frame = gs.predict(single, x).query("metric == 'output_grad_norm'")
    expected = 2 / 256 * (single(x).detach().square() + 1).sum().sqrt()
    assert frame["value"].iloc[-1] == pytest.approx(float(expected), rel=0.05)


def test_a_loss_of_ones_own() -> None:
    x, y = batch(16, 64)
    model = gs.lab.mlp(2, 64, seed=0)
    first = gs.predict(model, x, y)
    second = gs.predict(model, x, y, lambda out, targets: 1e-3 * F.cross_entropy(out, targets))
    ratio = (second["value"] / first["value"]).groupby(first["metric"]).mean()
    for metric, expected in {"output_rms": 1.0, "output_grad_norm": 1e-3, "weight_grad_norm": 1e-3}.items():
        assert ratio[metric] == pytest.approx(expected)


def test_nothing_of_the_model_changes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(32, 3))
    x, y = batch(8, 64, classes=3)
    F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
    model[0].weight.requires_grad_(False)
    grads = [one.grad for one in model.parameters() if one.grad is not None]
    before = [one.clone() for one in (*model.state_dict().values(), *grads)]
    state = torch.get_rng_state()
    gs.predict(model.eval(), x, y)
    assert all(torch.equal(a, b) for a, b in zip(before, [*model.state_dict().values(), *grads], strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert not model.training
    assert not model[0].weight.requires_grad
    assert x.grad_fn is None
    assert not x.requires_grad
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())


def test_predicting_inside_no_grad_is_the_same() -> None:
    x, y = batch(8, 64)
    model = gs.lab.mlp(2, 16, seed=0)
    with torch.no_grad():
        inside = gs.predict(model, x, y)
    pd.testing.assert_frame_equal(inside, gs.predict(model, x, y))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, None), "model is a torch.nn.Module, not int"),
        ((nn.Tanh(), torch.ones(2, 2)), "no layers in Tanh; watched are: "),
    ],
)
def test_what_cannot_be(arguments: tuple[Any, Any], message: str) -> None:
    with pytest.raises(gs.GradscopeError) as caught:
        gs.predict(*arguments)
    assert str(caught.value).startswith(message)


def test_a_loss_needs_targets() -> None:
    with pytest.raises(gs.GradscopeError) as caught:
        gs.predict(nn.Linear(2, 2), torch.ones(2, 2), loss_fn=F.mse_loss)
    assert str(caught.value) == "loss_fn= needs y=: without targets there is no loss"


def test_like_samples_have_like_labels(tmp_path: Path) -> None:
    digits = gs.lab.data.load("digits")
    x, y = digits.x_train[:128].reshape(128, -1), digits.y_train[:128]
    rows = compared(lambda seed: gs.lab.mlp(8, 128, "tanh", "xavier_normal", seed=seed), x, y, tmp_path)
    # Taken as unrelated, likeness of pictures and of labels left out 0.3 to 0.6 of the logarithm.
    assert off_by(rows, "weight_grad_norm") < 0.25
    assert covered(rows, "weight_grad_norm") >= 0.85


def test_gradients_of_large_outputs_depend_on_the_weights() -> None:
    x, y = batch(128, 64)
    frame = gs.predict(gs.lab.mlp(8, 128, "relu", "kaiming_normal", seed=0), 2.0 * x, y)
    status = frame[frame["metric"] == "weight_grad_norm"].set_index("depth")["status"]
    assert status[3] == OF_LARGE_OUTPUTS
    assert status[9] == ""
    small = gs.predict(gs.lab.mlp(8, 128, "relu", "xavier_normal", seed=0), x, y)
    assert set(small["status"]) == {""}


def test_an_input_that_is_no_number_is_said_to_be_so() -> None:
    frame = gs.predict(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)), torch.full((4, 8), math.nan))
    assert frame["value"].isna().all()
    assert frame["status"].str.endswith("where the network begins, a value is NaN or infinite").all()
