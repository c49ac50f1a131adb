"""information_of: what layers hand on, measured on a copy."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradscope as gs
from gradscope.errors import GradscopeError, InvalidTypeError, InvalidValueError

DIGITS = gs.lab.data.load("digits")
X, Y = DIGITS.x_train[:400], DIGITS.y_train[:400]


def by_depth(model: nn.Module, metric: str, **options: Any) -> list[float]:
    frame = gs.information_of(model, X, Y, **options)
    return [float(one) for one in frame.loc[frame["metric"] == metric, "value"]]


def test_what_is_measured_is_what_the_next_layer_takes_in() -> None:
    model = gs.lab.mlp(depth=3, activation="tanh", init="xavier", seed=0)
    frame = gs.information_of(model, X, Y)
    assert frame["depth"].unique().tolist() == [0, 1, 2, 3, 4]
    assert frame["layer"].unique().tolist() == [
        "input",
        "hidden.0.linear",
        "hidden.1.linear",
        "hidden.2.linear",
        "head",
    ]
    with torch.no_grad():
        second = model.hidden[1](model.hidden[0](X.flatten(1)))
    (rank,) = frame.loc[(frame["depth"] == 2) & (frame["metric"] == "effective_rank"), "value"]
    assert rank == pytest.approx(gs.information.effective_rank(second.numpy()).value, rel=1e-4)


def test_a_skip_is_part_of_what_is_handed_on() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(64, 64), nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(1)
            return self.two(x + 1e-3 * torch.sigmoid(self.one(x)))  # type: ignore[no-any-return]

    frame = gs.information_of(Skip(), X, Y).set_index(["depth", "metric"])["value"]
    assert frame[1, "cka_input"] == pytest.approx(1.0, abs=1e-3)


def test_deep_sigmoids_collapse_before_training_and_not_after_a_remedy() -> None:
    """Input and label information and the samples' spread go with depth; centred and scaled units keep all three."""
    sick = gs.lab.mlp(depth=8, activation="sigmoid", init="xavier", seed=0)
    healed = gs.lab.initialize(copy.deepcopy(sick), "centered_lsuv", sample=X)
    most = float(np.log(256))
    for metric in ("input_information", "label_information"):
        lost, kept = by_depth(sick, metric), by_depth(healed, metric)
        assert lost == sorted(lost, reverse=True)
        assert lost[8] < 1e-6 * lost[0]
        assert kept[8] > 0.9 * kept[0]
    assert by_depth(healed, "input_information")[8] == pytest.approx(most, abs=0.05)


def test_running_statistics_that_saw_no_batch_are_warned_of() -> None:
    """Evaluation mode then divides by 1, whatever training will divide by; after a batch nothing is said."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 10))
    said = "running statistics of a normalization have seen no batch: evaluation mode is not what training will see"
    frame = gs.information_of(model, X, Y)
    assert frame.loc[frame["depth"] > 0, "warning"].str.endswith(said).all()
    assert not frame.loc[frame["depth"] == 0, "warning"].str.contains(said).any()
    model(X)
    assert not gs.information_of(model, X, Y)["warning"].str.contains(said).any()


def test_images_are_pooled_over_positions_or_kept_whole() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    with torch.no_grad():
        maps = torch.relu(model[0](X))
    lone = nn.Sequential(nn.Conv2d(1, 4, 3))
    for spatial, seen in (("pool", lone(X).mean((2, 3))), ("flatten", lone(X).flatten(1))):
        frame = gs.information_of(lone, X, Y, spatial=spatial).set_index(["depth", "metric"])["value"]  # type: ignore[arg-type]
        expected = gs.information.participation_ratio(seen.detach().numpy()).value
        assert frame[1, "participation_ratio"] == pytest.approx(expected, rel=1e-3)
    # What the head takes in is flat already, and all of it is what reaches the head.
    expected = gs.information.participation_ratio(maps.flatten(1).numpy()).value
    for spatial in ("pool", "flatten"):
        frame = gs.information_of(model, X, Y, spatial=spatial).set_index(["depth", "metric"])["value"]  # type: ignore[arg-type]
        assert frame[1, "participation_ratio"] == pytest.approx(expected, rel=1e-3)


def test_the_model_and_all_random_states_stay_as_they_were() -> None:
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Dropout(), nn.ReLU(), nn.Linear(32, 10)
    )
    model[2].eval()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index] # noqa: NPY002
    gs.information_of(model, X, Y)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()  # type: ignore[index] # noqa: NPY002
    assert all(one.grad is None for one in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_nothing_is_written_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    gs.information_of(nn.Linear(64, 3), X.flatten(1), Y)
    assert not list(tmp_path.iterdir())


def test_dropout_is_off() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Dropout(0.9), nn.Tanh(), nn.Linear(32, 10))
    one, two = (by_depth(model, "effective_rank") for _ in range(2))
    assert one == two


def test_several_inputs_are_given_as_the_model_takes_them() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.last(torch.tanh(self.first(a)) + b)  # type: ignore[no-any-return]

    x = {"a": torch.randn(50, 8), "b": torch.randn(50, 8)}
    assert gs.information_of(Two(), x)["depth"].unique().tolist() == [0, 1, 2]
    assert gs.information_of(Two(), (x["a"], x["b"]))["depth"].unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (("a model", X), InvalidTypeError, "model is a torch.nn.Module, not str"),
        ((nn.Linear(64, 2), [1, 2]), InvalidTypeError, "x is a tensor (samples, ...) or holds one, not list"),
        ((nn.Linear(64, 2), X.flatten(1), Y[:5]), InvalidValueError, "y has 5 labels for 400 samples"),
        (
            (nn.Linear(64, 2), X.flatten(1) * torch.inf),
            InvalidValueError,
            "x holds NaN or infinity in 25600 of 25600 entries",
        ),
    ],
)
def test_bad_input_is_named(arguments: tuple[Any, ...], kind: type[GradscopeError], message: str) -> None:
    with pytest.raises(kind) as no:
        gs.information_of(*arguments)
    assert str(no.value) == message


def test_an_unknown_way_with_positions_is_named() -> None:
    with pytest.raises(InvalidValueError) as no:
        gs.information_of(nn.Linear(64, 2), X.flatten(1), spatial="max")  # type: ignore[arg-type]
    assert str(no.value) == "spatial is one of pool, flatten, not 'max'"
