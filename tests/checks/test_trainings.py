"""Every check on a small training that has the illness, and on healthy ones: real networks, real digits."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import gradscope as gs
from gradscope.lab import mlp
from gradscope.lab.data import Data, load

Alter = Callable[[int, nn.Module], None]
HEALTHY: dict[str, dict[str, Any]] = {
    "tanh": {"depth": 6, "activation": "tanh", "init": "xavier", "lr": 0.05},
    "relu": {"depth": 6, "activation": "relu", "init": "kaiming", "lr": 0.05},
    "selu": {"depth": 6, "activation": "selu", "init": "lecun_normal", "lr": 0.03},
    "gelu, adam": {"depth": 5, "activation": "gelu", "init": "kaiming", "lr": 0.003, "optimizer": "adam"},
    "batch norm": {"depth": 4, "activation": "relu", "init": "kaiming", "norm": "batch", "lr": 0.05},
    "residual": {"depth": 6, "activation": "relu", "init": "kaiming", "norm": "layer", "residual": True, "lr": 0.02},
    "cnn": {"model": "cnn", "depth": 3, "activation": "relu", "init": "kaiming", "lr": 0.05},
}
# What ails it, and the code that has to stand among the findings that are more than notes.
SICK: dict[str, tuple[str, dict[str, Any]]] = {
    "deep sigmoid": ("vanishing", {"depth": 8, "activation": "sigmoid", "init": "xavier", "lr": 0.1}),
    "four sigmoids": ("forward-collapse", {"depth": 4, "activation": "sigmoid", "init": "xavier", "lr": 0.1}),
    "tanh, default": ("depth-scale", {"depth": 20, "activation": "tanh", "init": "default", "lr": 0.05}),
    "tiny weights": ("vanishing", {"depth": 6, "activation": "relu", "init": "normal", "lr": 0.05}),
    "huge weights": ("exploding", {"depth": 8, "activation": "relu", "weight_var": 12.0, "lr": 0.01}),
    "saturated": ("saturation", {"depth": 6, "activation": "tanh", "weight_var": 100.0, "lr": 0.05}),
    "dead": ("dead-units", {"depth": 5, "activation": "relu", "init": "kaiming", "bias": -10.0, "lr": 0.05}),
    "zero from dead": ("no-gradient", {"depth": 5, "activation": "relu", "init": "kaiming", "bias": -10.0, "lr": 0.05}),
    "rate too low": ("update-ratio", {"depth": 4, "activation": "tanh", "init": "xavier", "lr": 1e-5}),
    "rate too high": (
        "update-ratio",
        {"depth": 6, "activation": "relu", "init": "kaiming", "lr": 0.3, "optimizer": "adam"},
    ),
    "batch norm": (
        "norm-explosion",
        {"depth": 50, "activation": "relu", "init": "kaiming", "norm": "batch", "lr": 0.05},
    ),
    "cnn": ("vanishing", {"model": "cnn", "depth": 6, "activation": "sigmoid", "init": "xavier", "lr": 0.05}),
    "stalled": ("stalled", {"depth": 8, "activation": "sigmoid", "init": "xavier", "lr": 0.1}),
}


def verdict(findings: gs.Findings) -> tuple[str, ...]:
    """Codes of the findings that are more than notes."""
    return tuple(one.code for one in findings if one.severity != "note")


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_trainings_are_silent(name: str, tmp_path: Path) -> None:
    run = gs.lab.train(out=tmp_path / "run", steps=150, **HEALTHY[name])
    assert run.final("test_accuracy") > 0.75
    assert verdict(gs.diagnose(run)) == ()


@pytest.mark.parametrize("name", SICK)
def test_sick_trainings_are_found(name: str, tmp_path: Path) -> None:
    code, options = SICK[name]
    run = gs.lab.train(out=tmp_path / "run", steps=120, **options)
    assert run.final("test_accuracy") < 0.3
    findings = gs.diagnose(run)
    assert code in verdict(findings)
    found = next(one for one in findings if one.code == code)
    assert found.cause
    assert found.remedy
    assert found.source
    assert all(math.isfinite(value) for values in found.by_layer.values() for value in values.values())


def test_weights_are_not_blamed_where_batch_normalization_takes_away_their_size(tmp_path: Path) -> None:
    run = gs.lab.train(out=tmp_path / "run", steps=1, depth=30, activation="relu", init="kaiming", norm="batch")
    found = next(one for one in gs.diagnose(run) if one.code == "exploding")
    assert found.remedies == ("add_skips", "shallower", "clip_gradients")
    assert "with batch normalization there, add skip connections" in found.remedy


def watched(
    model: nn.Module,
    folder: Path,
    *,
    steps: int = 120,
    lr: float = 0.05,
    scale: float = 1.0,
    batch: int = 64,
    every: int = 10,
    log: bool = True,
    labels: Tensor | None = None,
    alter: Alter | None = None,
    metrics: Any = "default",
) -> gs.Run:
    """Train on digits in a loop of one's own, and return the run while it is still open."""
    data: Data = load("digits")
    answers = data.y_train if labels is None else labels
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(0)
    kind = next(model.parameters()).dtype
    with gs.watch(model, optimizer, out=folder, every=every, metrics=metrics) as probe:
        for step in range(steps):
            if alter is not None:
                alter(step, model)
            chosen = torch.randint(len(answers), (batch,), generator=generator)
            output = model(data.x_train[chosen].to(kind)).float()
            loss = scale * functional.cross_entropy(output, answers[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if log:
                probe.log(loss=loss)
        return probe.run


def tanh(**options: Any) -> nn.Module:
    settings: dict[str, Any] = {"depth": 6, "activation": "tanh", "init": "xavier", "seed": 0}
    return mlp(**(settings | options))


def sigmoid(**options: Any) -> nn.Module:
    settings: dict[str, Any] = {"depth": 8, "activation": "sigmoid", "init": "xavier", "seed": 0}
    return mlp(**(settings | options))


@pytest.mark.parametrize("scale", [1e-4, 1e-3, 1e3])
def test_the_scale_of_the_loss_changes_no_verdict(scale: float, tmp_path: Path) -> None:
    well = gs.diagnose(watched(tanh(), tmp_path / "well", scale=scale, lr=0.05 / scale))
    ill = gs.diagnose(watched(sigmoid(), tmp_path / "ill", scale=scale, lr=0.05 / scale))
    assert well.codes == ()
    assert verdict(ill) == ("vanishing", "forward-collapse", "depth-scale", "stalled")


@pytest.mark.parametrize("options", [{"width": 256}, {"width": 64, "batch": 512}])
def test_width_and_batch_change_no_verdict(options: dict[str, Any], tmp_path: Path) -> None:
    width, batch = options["width"], options.get("batch", 64)
    well = gs.diagnose(watched(tanh(width=width), tmp_path / "well", batch=batch))
    ill = gs.diagnose(watched(sigmoid(width=width), tmp_path / "ill", batch=batch))
    assert well.codes == ()
    assert verdict(ill) == ("vanishing", "forward-collapse", "depth-scale", "stalled")


def test_without_a_loss_the_verdict_is_the_same_but_for_the_loss(tmp_path: Path) -> None:
    assert gs.diagnose(watched(tanh(), tmp_path / "well", log=False)).codes == ()
    ill = gs.diagnose(watched(sigmoid(), tmp_path / "ill", log=False))
    assert verdict(ill) == ("vanishing", "forward-collapse", "depth-scale")


def test_a_converged_training_is_silent_to_its_end_and_when_it_is_taken_up_again(tmp_path: Path) -> None:
    model = tanh(depth=4)
    run = watched(model, tmp_path / "first", steps=1500, lr=0.3, every=100)
    assert run.final("loss") < 0.01
    assert gs.diagnose(run).codes == ()
    again = watched(model, tmp_path / "again", steps=120, lr=0.3)
    assert gs.diagnose(again).codes == ()
    assert "stalled" in gs.diagnose(again).healthy


def test_labels_of_other_inputs_leave_the_loss_at_chance(tmp_path: Path) -> None:
    labels = torch.randint(10, (1347,), generator=torch.Generator().manual_seed(0))
    (one,) = gs.diagnose(watched(tanh(depth=3), tmp_path / "run", labels=labels))
    assert (one.code, one.severity) == ("stalled", "warning")


class Cut(nn.Module):
    """Cuts the graph."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


def test_a_detach_is_found_though_the_rest_learns(tmp_path: Path) -> None:
    model = tanh()
    model.hidden.insert(2, Cut())  # type: ignore[union-attr, operator]
    run = watched(model, tmp_path / "run")
    (one,) = [one for one in gs.diagnose(run) if one.severity != "note"]
    assert (one.code, one.severity, one.layers) == ("no-gradient", "warning", (1, 2))


def test_frozen_layers_are_no_illness(tmp_path: Path) -> None:
    model = tanh()
    for parameter in model.hidden[:2].parameters():  # type: ignore[index, union-attr]
        parameter.requires_grad_(False)
    assert gs.diagnose(watched(model, tmp_path / "run")).codes == ()


def test_nan_names_its_first_layer_and_step(tmp_path: Path) -> None:
    def alter(step: int, model: nn.Module) -> None:
        if step == 60:
            with torch.no_grad():
                model.hidden[3].linear.weight[0, 0] = math.nan  # type: ignore[index, union-attr]

    findings = gs.diagnose(watched(tanh(), tmp_path / "run", alter=alter))
    assert (findings[0].code, findings[0].severity) == ("non-finite", "critical")
    assert findings[0].title == "NaN or infinity since step 60"
    assert findings[0].layers[0] == 4


def test_half_precision_without_a_loss_scale_underflows(tmp_path: Path) -> None:
    run = watched(tanh(dtype="float16"), tmp_path / "run", scale=1e-5, lr=5.0)
    found = next(one for one in gs.diagnose(run) if one.code == "underflow")
    assert (found.severity, found.remedies) == ("critical", ("scale_loss",))
    assert "underflow" in gs.diagnose(watched(tanh(dtype="float16"), tmp_path / "well")).healthy


def test_a_live_run_is_diagnosed_as_it_grows(tmp_path: Path) -> None:
    seen: list[tuple[int, gs.Findings]] = []
    data, model = load("digits"), sigmoid()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with gs.watch(model, optimizer, out=tmp_path / "run", every=10) as probe:
        for step in range(121):
            loss = functional.cross_entropy(model(data.x_train[:64]), data.y_train[:64])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            probe.log(loss=loss)
            if step in (0, 50, 120):
                seen.append((step, gs.diagnose(probe.run)))
    assert [verdict(found) for _, found in seen] == [
        ("vanishing", "forward-collapse"),
        ("vanishing", "forward-collapse"),
        ("vanishing", "forward-collapse", "depth-scale", "stalled"),
    ]
    assert seen[1][1].not_applicable["stalled"].reason == "too early to tell: 100 steps are needed, not 51"


def test_a_collapse_of_rank_is_found_with_a_metric_of_ones_own(tmp_path: Path) -> None:
    @gs.metric(label="Effective rank")
    def effective_rank(output: Tensor) -> float:
        """Roy and Vetterli 2007: exp of the entropy of the singular values."""
        values = torch.linalg.svdvals(output.flatten(1).double())
        share = values / values.sum()
        return float(torch.exp(-(share * torch.log(share.clamp_min(1e-300))).sum()))

    try:
        ill = watched(sigmoid(), tmp_path / "ill")
        well = watched(tanh(), tmp_path / "well")
    finally:
        gs.metrics.unregister("effective_rank")
    assert "rank-collapse" in verdict(gs.diagnose(ill))
    assert "rank-collapse" in gs.diagnose(well).healthy
