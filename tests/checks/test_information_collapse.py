"""A sample that can no longer be told apart, and one that lies on a line: on real networks and on numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import gradscope as gs
from gradscope.checks.information_collapse import information_collapse
from gradscope.checks.rank_collapse import rank_collapse
from gradscope.runs import Writer
from gradscope.spec import LayerSpec, MetricSpec

DATA = gs.lab.data.load("digits")
SAMPLE = DATA.x_train[:256], DATA.y_train[:256]


def trained(model: nn.Module, folder: Path, steps: int = 120, **options: object) -> gs.Run:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    random = torch.Generator().manual_seed(0)
    options = {"sample": SAMPLE, "information_every": 20} | options
    with gs.watch(model, optimizer, out=folder, **options) as probe:  # type: ignore[arg-type]
        for _ in range(steps):
            chosen = torch.randint(len(DATA.y_train), (64,), generator=random)
            loss = functional.cross_entropy(model(DATA.x_train[chosen]), DATA.y_train[chosen])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            probe.log(loss=loss)
        return probe.run


def sigmoid(depth: int) -> nn.Module:
    return gs.lab.mlp(depth=depth, activation="sigmoid", init="xavier", seed=0)


# ------------------------------------------------------------------------------------------------ real networks


def test_eight_sigmoids_lose_the_sample(tmp_path: Path) -> None:
    run = trained(sigmoid(8), tmp_path / "run")
    (found,) = (one for one in gs.diagnose(run) if one.code == "information-collapse")
    assert found.severity == "critical"
    assert found.layers == (2, 3, 4, 5, 6, 7, 8)
    assert found.evidence["information_first_layer"] > 1.0
    assert found.evidence["information_last_hidden"] < 1e-7
    assert found.evidence["information_needed"] == pytest.approx(0.1 * np.log(10))
    assert found.evidence["noise_var"] == 0.1
    assert found.remedies[:2] == ("critical_init", "centered_lsuv")
    assert list(found.by_layer["input_information"]) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert found.cause.endswith("before the head; a skill of 1/10 takes 0.23. The training makes no progress.")


def test_centred_and_scaled_units_keep_it(tmp_path: Path) -> None:
    model = gs.lab.initialize(sigmoid(8), "centered_lsuv", sample=SAMPLE[0])
    findings = gs.diagnose(trained(model, tmp_path / "run"))
    assert {"information-collapse", "rank-collapse"} <= set(findings.healthy)


@pytest.mark.parametrize(("depth", "expected"), [(3, []), (4, ["warning"])])
def test_the_first_steps_tell_networks_that_learn_from_such_that_do_not(
    depth: int, expected: list[str], tmp_path: Path
) -> None:
    """Three of these layers learn in 300 steps, four never do; after 5 steps nobody can tell by the loss."""
    found = information_collapse(trained(sigmoid(depth), tmp_path / "run", steps=5))
    assert isinstance(found, list)
    assert [one.severity for one in found] == expected


@pytest.mark.parametrize("name", ["relu", "tanh", "batch norm", "cnn"])
def test_networks_that_learn_are_silent(name: str, tmp_path: Path) -> None:
    build: dict[str, Callable[[], nn.Module]] = {
        "relu": lambda: gs.lab.mlp(depth=6, activation="relu", init="kaiming", seed=0),
        "tanh": lambda: gs.lab.mlp(depth=6, activation="tanh", init="xavier", seed=0),
        "batch norm": lambda: gs.lab.mlp(depth=4, activation="relu", init="kaiming", norm="batch", seed=0),
        "cnn": lambda: gs.lab.cnn(depth=3, activation="relu", init="kaiming", seed=0),
    }
    run = trained(build[name](), tmp_path / "run", steps=60)
    assert information_collapse(run) == []
    assert rank_collapse(run) == []


def test_small_outputs_are_not_taken_for_lost_ones(tmp_path: Path) -> None:
    """Weights of 0.01 shrink what is handed on far below the noise, and lose nothing of it."""
    model = gs.lab.mlp(depth=6, activation="relu", init="normal", seed=0)
    found = information_collapse(trained(model, tmp_path / "run", steps=5))
    assert found == gs.NotApplicable("what the last hidden layer hands on is no larger than the noise of 0.1")


def test_a_dead_layer_loses_the_sample(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
    with torch.no_grad():
        model.get_parameter("3.bias").fill_(-100.0)
    (found,) = information_collapse(trained(model, tmp_path / "run", steps=5))  # type: ignore[misc]
    assert (found.layers, found.evidence["information_last_hidden"]) == ((2,), 0.0)


def test_without_a_sample_it_says_what_to_do(tmp_path: Path) -> None:
    run = trained(sigmoid(3), tmp_path / "run", steps=3, sample=None)
    assert information_collapse(run) == gs.NotApplicable(
        "the metric input_information was not recorded: watch with sample=(x, y)"
    )
    assert rank_collapse(run) == gs.NotApplicable("the metric effective_rank was not recorded")


def test_a_sample_that_ends_on_a_line_is_a_rank_collapse(tmp_path: Path) -> None:
    """The recorded effective rank is that of what the last hidden layer hands on, centred."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10))
    with torch.no_grad():
        weight = model.get_parameter("3.weight")
        weight.copy_(0.1 * torch.ones(32, 1) @ torch.randn(1, 32, generator=torch.Generator().manual_seed(0)))
    run = trained(model, tmp_path / "run", steps=1)
    (found,) = rank_collapse(run)  # type: ignore[misc]
    assert (found.code, found.layers) == ("rank-collapse", (2,))
    assert found.evidence["effective_rank"] < 1.5
    assert found.evidence["highest"] > 10.0


# ------------------------------------------------------------------------------------------------------ numbers


def written(
    folder: Path,
    information: list[float],
    of_label: list[float] | None = None,
    loss: Mapping[int, float] | None = None,
    activation: str = "tanh",
) -> gs.Run:
    """Record three hidden layers and a head of ten classes, whose outputs are of size 1."""
    metrics = [
        MetricSpec("input_information", "Information", parameters={"noise_var": 0.1}),
        MetricSpec("output_rms", "Output RMS"),
        *([MetricSpec("label_information_high", "Information")] if of_label else []),
    ]
    writer = Writer(str(folder), metrics=metrics, name="patient", every=1)
    writer.describe(
        [
            LayerSpec(
                id=place, layer=f"net.{place}", call=1, depth=place + 1, parents=(place - 1,) if place else (),
                activation=activation if place < 3 else "identity", fan_in=8, fan_out=8 if place < 3 else 10,
            )
            for place in range(4)
        ]
    )  # fmt: skip
    table = np.array([information, [1.0] * 4, *([of_label] if of_label else [])]).T
    for step in range(5):
        writer.rows(step, np.arange(4, dtype=np.int32), table, np.ones(table.shape, np.bool_))
    for step, value in (loss or {}).items():
        writer.scalars(step, {"loss": value})
    writer.close()
    run = gs.load(folder)
    assert isinstance(run, gs.Run)
    return run


STALLED = dict.fromkeys(range(0, 200, 10), 2.3026)


@pytest.mark.parametrize(
    ("last", "loss", "severity"),
    [
        (0.0024, {}, None),
        (0.0022, {}, "warning"),
        (0.0022, STALLED, "warning"),
        (2.2e-5, {}, "warning"),
        (2.2e-5, STALLED, "critical"),
        (2.2e-5, {step: 2.3 - 0.01 * step for step in range(0, 200, 10)}, "note"),
    ],
)
def test_severity_goes_by_the_derivation(
    last: float, loss: Mapping[int, float], severity: str | None, tmp_path: Path
) -> None:
    """A skill of a tenth takes 0.23 nats; a hundredth of it is the threshold, a ten-thousandth is critical."""
    found = information_collapse(written(tmp_path / "run", [3.0, 0.3, last, 1.0], loss=loss))
    assert isinstance(found, list)
    assert [one.severity for one in found] == ([severity] if severity else [])
    assert all(one.layers == (3,) for one in found)


def test_the_smaller_of_both_bounds_counts(tmp_path: Path) -> None:
    found = information_collapse(written(tmp_path / "run", [3.0, 3.0, 3.0, 3.0], of_label=[1.0, 0.1, 1e-3, 1.0]))
    assert isinstance(found, list)
    (one,) = found
    assert one.layers == (2, 3)
    assert one.evidence["information_last_hidden"] == pytest.approx(1e-3)
    assert one.cause == (
        "Under noise of variance 0.1, at most 0.1 nats of the sample are left in layer 2 (net.1), and 0.001 before the "
        "head; a skill of 1/10 takes 0.23."
    )


def test_a_sample_lost_from_the_first_layer_on_says_so(tmp_path: Path) -> None:
    found = information_collapse(written(tmp_path / "run", [1e-3, 1e-3, 1e-3, 1e-3]))
    assert isinstance(found, list)
    assert found[0].layers == (1, 2, 3)
    assert "nats of the sample are left already in layer 1 (net.0), and" in found[0].cause
