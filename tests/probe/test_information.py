"""A fixed sample, measured while a model trains: rows like any other, and a training that does not notice."""

from __future__ import annotations

import copy
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sampled_trainings import data, loaded, net, train
from torch import Tensor, nn

import gradscope as gs
from gradscope.errors import GradscopeError, InvalidTypeError, InvalidValueError

DEFAULT = [
    "effective_rank",
    "participation_ratio",
    "cka_input",
    "cka_label",
    "input_information",
    "label_information",
]


def test_the_sample_is_measured_as_its_steps_leave_the_model(tmp_path: Path) -> None:
    """Step 0 is recorded, step 7 is not: both have rows, and those of step 0 hold everything."""
    model = net()
    train(model, 8, tmp_path / "run", every=5, sample=data(), information_every=7)
    run = loaded(tmp_path / "run")
    assert run.steps() == [0, 5, 7]
    assert run.steps("effective_rank") == [0, 7]
    assert run.steps("output_grad_norm") == [0, 5]
    assert run.frame("effective_rank").shape == (2, 3)
    direct = gs.information_of(model, *data())
    for metric in DEFAULT:
        rows = direct[(direct["metric"] == metric) & (direct["depth"] > 0)].set_index("depth")
        measured = run.profile(metric, 7)
        assert measured.index.tolist() == [1, 2, 3]
        for name, column in (("", "value"), ("_low", "low"), ("_high", "high")):
            stored = run.profile(f"{metric}{name}", 7)
            assert stored.to_numpy() == pytest.approx(rows[column].to_numpy(), rel=1e-5, abs=1e-6)


def test_rows_of_a_recorded_step_are_not_doubled(tmp_path: Path) -> None:
    train(net(), 3, tmp_path / "run", every=1, sample=data(), information_every=2)
    parts = pd.concat([pd.read_parquet(path) for path in (tmp_path / "run" / "layers").glob("*.parquet")])
    assert not parts.duplicated(["step", "id"]).any()
    assert parts.groupby("step")["effective_rank"].apply(lambda one: one.notna().all()).tolist() == [True, False, True]


@pytest.mark.parametrize("frozen", [False, True])
def test_the_training_is_bit_identical_with_a_sample(tmp_path: Path, frozen: bool) -> None:
    """Dropout, batch normalization in training or frozen, Adam, and all three generators of random numbers."""
    bare, watched = (net(nn.BatchNorm1d(8), nn.Dropout(0.3)) for _ in range(2))
    for model in (bare, watched):
        model[1].train(not frozen)
    modes = [module.training for module in watched.modules()]
    losses = train(bare, 12)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index] # noqa: NPY002
    sampled = {"sample": data(), "information_every": 3, "metrics": "all"}
    assert train(watched, 12, tmp_path / "run", every=2, **sampled) == losses
    assert all(torch.equal(one, bare.state_dict()[name]) for name, one in watched.state_dict().items())
    assert [module.training for module in watched.modules()] == modes
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]  # type: ignore[index] # noqa: NPY002


class Keeper(nn.Module):
    """Counts and averages in plain attributes, in a list and in a buffer that it makes itself, in any mode."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 3)
        self.calls, self.mean, self.history = 0, None, [torch.zeros(8)]
        self.kept: dict[str, Any] = {"last": None}

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        z = torch.tanh(self.one(x))
        mean = z.detach().mean(0)
        self.mean = mean if self.mean is None else 0.9 * self.mean + 0.1 * mean
        self.history[0].mul_(0.5).add_(mean)
        self.history.append(mean)
        self.kept["last"] = mean
        if self.calls == 2:
            self.register_buffer("late", mean)
        moved = z - self.mean + self.history[0] + 1e-3 * len(self.history) + 1e-3 * self.calls
        return self.two(moved + self.kept["last"])  # type: ignore[no-any-return]


def test_what_a_model_keeps_for_itself_is_put_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    bare = Keeper()
    watched = copy.deepcopy(bare)
    losses = train(bare, 12)
    assert train(watched, 12, tmp_path / "run", sample=data(), information_every=2) == losses
    assert watched.calls == 12
    assert all(torch.equal(one, bare.state_dict()[name]) for name, one in watched.state_dict().items())
    assert loaded(tmp_path / "run").steps("effective_rank") == [0, 2, 4, 6, 8, 10]


def test_a_model_that_changes_its_input_gets_the_same_sample_again(tmp_path: Path) -> None:
    model = nn.Sequential(nn.ELU(3.0, inplace=True), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    x = data()[0]
    before = x.clone()
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    with gs.watch(model, optimizer, out=tmp_path / "run", sample=(x, None), information_every=1):
        for _ in range(2):
            model(before.clone()).sum().backward()
            optimizer.step()
    assert torch.equal(x, before)
    first, second = (loaded(tmp_path / "run").profile("cka_input", step) for step in (0, 1))
    assert first.tolist() == second.tolist()


def test_a_hook_that_removes_itself_is_not_used_up(tmp_path: Path) -> None:
    model, seen = net(), []
    with gs.watch(model, out=tmp_path / "run", sample=data(), information_every=1) as probe:
        model(data()[0]).sum().backward()
        handle = model[0].register_forward_hook(lambda *_: (seen.append(1), handle.remove())[1])
        probe.step()
        assert len(model[0]._forward_hooks) >= 1
        model(data()[0])
    assert seen == [1, 1]
    assert loaded(tmp_path / "run").steps("effective_rank") == [0]


class Shaped(nn.Module):
    """Two layers in the middle whose inputs have another shape than (samples, features)."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        layer = (lambda a, b: nn.Conv1d(a, b, 1)) if kind == "conv1d" else nn.Linear
        self.one, self.two, self.head = layer(2, 5), layer(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, 3, 2)
        to, back = {
            "conv1d": (lambda z: z.transpose(1, 2), lambda z: z.mean(2)),
            "channels last": (lambda z: z[:, :, None], lambda z: z.mean((1, 2))),
            "steps first": (lambda z: z.transpose(0, 1), lambda z: z.mean(0)),
            "flattened": (lambda z: z.flatten(0, 1), lambda z: z.view(-1, 3, 4).mean(1)),
        }[self.kind]
        z = torch.relu(self.two(torch.relu(self.one(to(x)))))
        return self.head(back(z))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["conv1d", "channels last", "steps first"])
def test_features_are_told_from_positions(tmp_path: Path, kind: str) -> None:
    """The same weights in a convolution of width 1, or a linear layer over positions, whatever comes first."""
    torch.manual_seed(0)
    plain = Shaped("channels last")
    model = Shaped(kind)
    model.load_state_dict({name: one.view_as(model.state_dict()[name]) for name, one in plain.state_dict().items()})
    with torch.no_grad():
        first = torch.relu(plain.one(data()[0].view(-1, 3, 2)))
        expected = gs.information.participation_ratio(first.mean(1).numpy()).value
    train(model, 1, None)
    model.load_state_dict({name: one.view_as(model.state_dict()[name]) for name, one in plain.state_dict().items()})
    frame = gs.information_of(model, *data()).set_index(["depth", "metric"])["value"]
    assert frame[1, "participation_ratio"] == pytest.approx(expected, rel=1e-4)
    with gs.watch(model, out=tmp_path / "run", sample=data()) as probe:
        model(data()[0]).sum().backward()
        probe.step()
    assert loaded(tmp_path / "run").profile("participation_ratio").loc[1] == pytest.approx(expected, rel=1e-4)


def test_a_layer_whose_samples_cannot_be_told_is_left_out_and_no_other(tmp_path: Path) -> None:
    train(Shaped("flattened"), 1, tmp_path / "run", sample=data())
    assert loaded(tmp_path / "run").profile("effective_rank").index.tolist() == [2, 3]
    assert gs.information_of(Shaped("flattened"), *data())["depth"].unique().tolist() == [0, 2, 3]


def test_a_continuous_target_has_no_labels(tmp_path: Path) -> None:
    x, _ = data()
    train(net(), 1, tmp_path / "run", sample=(x, x[:, :2]))
    run = loaded(tmp_path / "run")
    assert run.profile("cka_label").loc[1] > 0.2
    assert run.steps("label_information") == []


def test_a_step_that_is_not_measured_calls_the_model_once(tmp_path: Path) -> None:
    model, calls = net(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    train(model, 10, tmp_path / "run", every=4, sample=data(), information_every=5)
    assert len(calls) == 10 + 2


def test_without_labels_what_needs_them_is_absent(tmp_path: Path) -> None:
    train(net(), 1, tmp_path / "run", sample=(data()[0], None))
    run = loaded(tmp_path / "run")
    assert run.steps("input_information") == [0]
    assert run.steps("label_information") == []


def test_other_metrics_of_information_can_be_named(tmp_path: Path) -> None:
    train(net(), 1, tmp_path / "run", metrics=["backward", "label_accuracy"], sample=data())
    run = loaded(tmp_path / "run")
    assert [name for name, one in run.metrics.items() if one.group == "information"] == [
        "label_accuracy",
        "label_accuracy_low",
        "label_accuracy_high",
    ]
    assert run.profile("label_accuracy").between(0, 1).all()
    assert run.metrics["label_accuracy"].parameters["folds"] == 5


def test_a_large_sample_is_thinned_once(tmp_path: Path) -> None:
    train(net(), 2, tmp_path / "run", sample=data(3000), information_every=1)
    run = loaded(tmp_path / "run")
    assert run.metrics["effective_rank"].parameters["samples"] == 1024
    assert run.steps("effective_rank") == [0, 1]


def test_the_settings_of_a_small_sample_are_those_it_was_measured_with(tmp_path: Path) -> None:
    train(net(), 1, tmp_path / "run", sample=data(80))
    specs = loaded(tmp_path / "run").metrics
    assert specs["effective_rank"].parameters["samples"] == 80
    assert (specs["cka_input"].parameters["samples"], specs["cka_input"].parameters["rows"]) == (80, 80)
    assert specs["input_information_low"].parameters["rows"] == 80


def test_a_sample_that_the_model_refuses_is_a_fault_and_no_more(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        losses = train(net(), 5, tmp_path / "run", sample=(torch.randn(20, 5), None), information_every=1)
    assert len(losses) == 5
    told = [str(one.message) for one in caught if "measuring the sample failed at step 0" in str(one.message)]
    assert len(told) == 1
    assert loaded(tmp_path / "run").steps("output_grad_norm") == [0]
    assert "measuring the sample failed 5 times, last at step 4" in " ".join(loaded(tmp_path / "run").events["text"])


def test_a_layer_that_is_not_finite_has_no_information(tmp_path: Path) -> None:
    model = net()
    with torch.no_grad():
        model[2].weight[0, 0] = torch.inf
    with gs.watch(model, out=tmp_path / "run", sample=data()) as probe:
        model(data()[0]).sum().backward()
        probe.step()
    assert loaded(tmp_path / "run").profile("effective_rank").index.tolist() == [1]


def test_branches_and_skips_are_measured_where_they_meet(tmp_path: Path) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(x + 1e-4 * torch.tanh(self.one(x)))  # type: ignore[no-any-return]

    train(Block(), 1, tmp_path / "run", sample=data())
    assert loaded(tmp_path / "run").profile("cka_input").loc[1] == pytest.approx(1.0, abs=1e-3)


def test_the_time_of_the_sample_is_part_of_the_cost(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with gs.watch(model, optimizer, out=tmp_path / "run", every=10**6, sample=data(), information_every=1) as probe:
        for _ in range(20):
            model(torch.randn(4, 6)).sum().backward()
            optimizer.step()
        assert 0.3 < probe.cost <= 1.0


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"sample": 3}, InvalidTypeError, "sample is the pair (x, y), y None without labels, not int"),
        (
            {"sample": ([1, 2], None)},
            InvalidTypeError,
            "the x of sample is a tensor (samples, ...) or holds one, not list",
        ),
        (
            {"sample": (torch.zeros(8, 6), [1])},
            InvalidValueError,
            "the x of sample has 8 samples and its y has 1",
        ),
        (
            {"sample": (torch.zeros(8, 6), torch.full((8,), torch.nan))},
            InvalidValueError,
            "the y of sample holds NaN or infinity",
        ),
        (
            {"sample": (torch.zeros(3, 6), None)},
            InvalidValueError,
            "sample has 3 samples, and at least 4 are needed",
        ),
        (
            {"metrics": ["backward", "cka_input"]},
            InvalidValueError,
            "cka_input is measured on a fixed sample: give sample=(x, y)",
        ),
        (
            {"metrics": "information"},
            InvalidValueError,
            "information is measured on a fixed sample: give sample=(x, y)",
        ),
    ],
)
def test_bad_input_is_named(tmp_path: Path, given: dict[str, Any], kind: type[GradscopeError], message: str) -> None:
    with pytest.raises(kind) as no:
        gs.watch(net(), out=tmp_path / "run", **given)
    assert str(no.value) == message
    assert not (tmp_path / "run").exists()


def test_a_copy_made_while_watched_is_measured_no_more(tmp_path: Path) -> None:
    model = net()
    with gs.watch(model, out=tmp_path / "run", sample=data()):
        copy.deepcopy(model)(data()[0])
    assert loaded(tmp_path / "run").steps() == []
