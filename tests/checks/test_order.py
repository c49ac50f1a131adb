"""Of several findings the first is the cause: by severity, by onset, and what follows from another comes after it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import gradscope as gs
from gradscope.checks.finding import Finding, by_urgency
from gradscope.lab.data import load

Weights = Callable[[nn.Linear], None]


def finding(code: str, severity: str, *steps: int) -> Finding:
    return Finding(code, code, severity, (), steps, {}, "", "", "")  # type: ignore[arg-type]


def test_worst_first_then_what_was_there_before_and_symptoms_last() -> None:
    given = [
        finding("stalled", "critical", 0, 90),
        finding("dead-units", "critical", 20, 90),
        finding("vanishing", "critical", 0, 90),
        finding("non-finite", "critical", 30),
        finding("saturation", "warning", 0, 90),
    ]
    found = [one.code for one in sorted(given, key=by_urgency)]
    assert found == ["non-finite", "vanishing", "dead-units", "stalled", "saturation"]


def net(depth: int, kind: type[nn.Module], weights: Weights) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(depth):
        layers += [nn.Linear(64, 64), kind()]
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    for layer in model:
        if isinstance(layer, nn.Linear):
            weights(layer)
            nn.init.zeros_(layer.bias)
    return model


def xavier(layer: nn.Linear) -> None:
    nn.init.xavier_normal_(layer.weight)


def kaiming(layer: nn.Linear) -> None:
    nn.init.kaiming_normal_(layer.weight)


def zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)


def train(model: nn.Sequential, folder: Path, *, adam: bool = False, steps: int = 120, lr: float = 0.05) -> gs.Findings:
    data = load("digits")
    kind = torch.optim.Adam if adam else torch.optim.SGD
    optimizer, generator = kind(model.parameters(), lr=lr), torch.Generator().manual_seed(0)
    with gs.watch(model, optimizer, out=folder, every=10) as probe:
        for _ in range(steps):
            chosen = torch.randint(len(data.y_train), (64,), generator=generator)
            loss: Tensor = functional.cross_entropy(model(data.x_train[chosen]), data.y_train[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            probe.log(loss=loss)
        return gs.diagnose(probe.run)


@pytest.mark.parametrize("kind", [nn.ReLU, nn.Tanh])
def test_zero_weights_are_named_and_nothing_is_said_to_have_died(kind: type[nn.Module], tmp_path: Path) -> None:
    found = train(net(3, kind, zero), tmp_path / "run")
    assert (found[0].code, found[0].severity, found[0].remedies) == ("no-gradient", "critical", ("critical_init",))
    assert "The weights of layers 1 (1), 2 (3), 3 (5) are all zero: nothing passes through them" in found[0].cause
    assert "dead-units" not in found.codes


def test_units_killed_by_the_first_step_come_after_the_step(tmp_path: Path) -> None:
    found = train(net(4, nn.ReLU, kaiming), tmp_path / "run", adam=True, lr=1.0)
    assert found[0].code == "update-ratio"
    assert "the updates are too large" in found[0].title


def test_weights_that_saturate_explain_updates_that_are_small_beside_them(tmp_path: Path) -> None:
    def large(layer: nn.Linear) -> None:
        nn.init.normal_(layer.weight, std=2.5)

    found = train(net(3, nn.Tanh, large), tmp_path / "run", adam=True, lr=1e-3)
    by_code = {one.code: one.severity for one in found}
    assert (found[0].code, by_code.get("update-ratio", "note")) == ("saturation", "note")


@pytest.mark.parametrize(("adam", "verdict"), [(True, ()), (False, ("vanishing", "forward-collapse"))])
def test_of_the_first_step_an_optimizer_that_divides_by_the_gradient_is_trusted(
    adam: bool, verdict: tuple[str, ...], tmp_path: Path
) -> None:
    """Four sigmoid layers: kappa = 6,000. Adam, whose updates are alike, learns them in 300 steps; SGD does not."""
    found = train(net(4, nn.Sigmoid, xavier), tmp_path / "run", adam=adam, steps=1, lr=0.01)
    assert tuple(one.code for one in found if one.severity != "note") == verdict


def test_nan_in_the_forward_pass_kills_no_units(tmp_path: Path) -> None:
    model = net(3, nn.ReLU, kaiming)
    with torch.no_grad():
        model.get_parameter("3.weight")[0, 0] = math.nan
    found = train(model, tmp_path / "run")
    assert [one.code for one in found if one.severity != "note"] == ["non-finite", "stalled"]
    assert found[1].title == "the loss ends as NaN or infinity"
    assert found[1].cause == "In 120 steps the loss went from nan to nan."
