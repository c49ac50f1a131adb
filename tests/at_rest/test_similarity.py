"""similarity_of: the layers of real networks compared with each other."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import gradscope as gs
from gradscope.errors import InvalidTypeError, InvalidValueError

X = gs.lab.data.load("digits").x_train[:300]


def square(frame: pd.DataFrame) -> np.ndarray:
    return frame.pivot(index="depth", columns="other_depth", values="value").to_numpy()


def test_the_frame_has_every_pair_of_layer_calls_and_the_input() -> None:
    model = gs.lab.mlp(depth=3, activation="tanh", init="xavier", seed=0)
    frame = gs.similarity_of(model, X)
    names = ["input", "hidden.0.linear", "hidden.1.linear", "hidden.2.linear", "head"]
    assert frame.columns.tolist() == [
        *("depth", "layer", "other_depth", "other_layer", "value", "low", "high", "estimator", "n", "warning")
    ]
    assert frame["layer"].tolist() == [name for name in names for _ in names]
    assert frame["other_layer"].tolist() == names * 5
    assert frame["n"].unique().tolist() == [256]
    found = square(frame)
    assert np.diagonal(found) == pytest.approx(1.0)
    assert found == pytest.approx(found.T)
    # Near the input of a random network neighbours are alike, and the less the further apart.
    assert found[0, 1] > found[0, 2] > found[0, 3] > 0.3


def test_it_is_the_cka_of_what_the_layers_hand_on() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 10))
    with torch.no_grad():
        hidden = model[:3](X).numpy()
        output = model(X).numpy()
    found = square(gs.similarity_of(model, X, rows=300))
    assert found[1, 2] == pytest.approx(gs.information.cka(hidden, output).value, abs=1e-5)
    assert found[0, 1] == pytest.approx(gs.information.cka(X.flatten(1).numpy(), hidden).value, abs=1e-5)


def test_a_block_that_rotates_is_seen_as_one() -> None:
    model = nn.Sequential(nn.Flatten(), *(nn.Linear(64, 64, bias=False) for _ in range(3)))
    for weight in model.parameters():
        nn.init.orthogonal_(weight)
    assert square(gs.similarity_of(model, X)) == pytest.approx(np.ones((4, 4)), abs=1e-4)


def test_a_layer_that_lost_the_sample_has_no_similarity() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        model.get_parameter("1.bias").fill_(-100.0)
    found = square(gs.similarity_of(model, X))
    assert np.isnan(found[1:]).all()
    assert found[0, 0] == pytest.approx(1.0)


def test_repeated_calls_are_rows_of_their_own() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input = nn.Linear(64, 64)

        def forward(self, x: Tensor) -> Tensor:
            return self.input(torch.tanh(self.input(x.flatten(1))))  # type: ignore[no-any-return]

    frame = gs.similarity_of(Twice(), X)
    assert frame["layer"].unique().tolist() == ["input", "input (call 2)"]
    assert frame["depth"].unique().tolist() == [0, 1, 2]


def test_the_model_stays_as_it_was() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(), nn.Linear(16, 3))
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    one, two = gs.similarity_of(model, X), gs.similarity_of(model, X)
    pd.testing.assert_frame_equal(one, two)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in model.modules())


def test_bad_input_is_named() -> None:
    with pytest.raises(InvalidTypeError) as no:
        gs.similarity_of("a model", X)  # type: ignore[arg-type]
    assert str(no.value) == "model is a torch.nn.Module, not str"
    with pytest.raises(InvalidValueError) as few:
        gs.similarity_of(nn.Linear(64, 2), X[:3].flatten(1))
    assert str(few.value) == "layer 'input, depth 0' has 3 samples, and at least 4 are needed"
    with pytest.raises(InvalidValueError) as way:
        gs.similarity_of(nn.Linear(64, 2), X.flatten(1), spatial="max")  # type: ignore[arg-type]
    assert str(way.value) == "spatial is one of pool, flatten, not 'max'"
