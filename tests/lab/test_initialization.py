"""Initializations: variances against their formulas, biases, seeds, messages."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from gradscope.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from gradscope.lab.initialization import NAMES, WHOLE, fans, initialize

# Each has enough weights that the relative error of a variance stays under one per cent.
BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "square": lambda: nn.Linear(400, 400),
    "wide": lambda: nn.Linear(300, 700),
    "conv": lambda: nn.Conv2d(40, 80, 3),
    "oblong conv": lambda: nn.Conv2d(30, 60, (3, 7)),
    "grouped conv": lambda: nn.Conv2d(60, 120, 5, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(80, 40, 3),
}
FANS = {
    "square": (400, 400),
    "wide": (300, 700),
    "conv": (360, 720),
    "oblong conv": (630, 1260),
    "grouped conv": (750, 1500),
    "transposed": (720, 360),
}
VARIANCES: dict[str, Callable[[int, int], float]] = {
    "default": lambda fan_in, _: 1 / (3 * fan_in),
    "xavier": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "kaiming": lambda fan_in, _: 2 / fan_in,
    "lecun": lambda fan_in, _: 1 / fan_in,
    "normal": lambda fan_in, fan_out: 0.01**2,
}


def weight_of(layer: nn.Module) -> torch.Tensor:
    return layer.get_parameter("weight").detach().double()


@pytest.mark.parametrize("shape", BUILDERS)
def test_fans_count_what_a_unit_sums_over_and_what_it_reaches(shape: str) -> None:
    layer = BUILDERS[shape]()
    assert isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
    assert fans(layer) == FANS[shape]


@pytest.mark.parametrize("shape", BUILDERS)
@pytest.mark.parametrize("name", [one for one in NAMES if one != "orthogonal"])
def test_weights_have_the_variance_of_the_formula(name: str, shape: str) -> None:
    weight = weight_of(initialize(BUILDERS[shape](), name, seed=1))
    fan_in, fan_out = FANS[shape]
    if (name, shape) == ("default", "transposed"):
        fan_in = fan_out  # PyTorch's own default takes the fan of a transposed convolution over its outputs
    expected = VARIANCES[name.partition("_")[0]](fan_in, fan_out)
    assert weight.var().item() == pytest.approx(expected, rel=0.02)
    assert weight.mean().item() == pytest.approx(0, abs=4 * math.sqrt(expected / weight.numel()))


@pytest.mark.parametrize("name", [one for one in NAMES if "_" in one])
def test_the_law_is_the_one_in_the_name(name: str) -> None:
    weight = weight_of(initialize(nn.Linear(500, 500), name, seed=2))
    kurtosis = (weight**4).mean() / (weight**2).mean() ** 2
    assert kurtosis.item() == pytest.approx(1.8 if name.endswith("uniform") else 3.0, rel=0.02)


@pytest.mark.parametrize(("short", "full"), [("xavier", "xavier_uniform"), ("kaiming", "kaiming_normal")])
def test_short_names_stand_for_the_law_of_the_paper(short: str, full: str) -> None:
    one, other = (weight_of(initialize(nn.Linear(9, 9), name, seed=0)) for name in (short, full))
    assert torch.equal(one, other)


def test_orthogonal_rows_or_columns_are_orthonormal() -> None:
    tall, wide = (
        weight_of(initialize(nn.Linear(*sizes).double(), "orthogonal", seed=0)) for sizes in ((30, 50), (50, 30))
    )
    assert torch.allclose(tall.T @ tall, torch.eye(30, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(wide @ wide.T, torch.eye(30, dtype=torch.float64), atol=1e-12)


def test_orthogonal_convolutions_are_so_as_matrices_and_take_a_weight_variance() -> None:
    conv = initialize(nn.Conv2d(6, 8, (3, 5)).double(), "orthogonal", weight_var=1.7, gain=2, seed=0)
    matrix = weight_of(conv).flatten(1)
    assert torch.allclose(matrix @ matrix.T, 4 * 1.7 * torch.eye(8, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("name", ["default", "normal"])
@pytest.mark.parametrize("shape", BUILDERS)
def test_weight_and_bias_variance_can_be_given(name: str, shape: str) -> None:
    layer = initialize(BUILDERS[shape](), name, weight_var=1.69, bias_var=0.09, seed=3)
    assert weight_of(layer).var().item() == pytest.approx(1.69 / FANS[shape][0], rel=0.02)


def test_bias_variance_is_met() -> None:
    layer = initialize(nn.Linear(2, 40_000), "kaiming", bias_var=0.09, seed=4)
    assert layer.bias.var().item() == pytest.approx(0.09, rel=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_gain_multiplies_the_weights_only(name: str) -> None:
    plain, scaled = (initialize(nn.Linear(20, 30), name, gain=gain, seed=5) for gain in (None, 5 / 3))
    assert torch.allclose(scaled.weight, plain.weight * 5 / 3, atol=1e-6)
    assert torch.equal(plain.bias, scaled.bias)


@pytest.mark.parametrize("name", NAMES)
def test_biases_are_zero_but_for_the_default(name: str) -> None:
    bias = initialize(nn.Linear(50, 50), name, seed=6).bias
    assert bool((bias != 0).all()) if name == "default" else bool((bias == 0).all())


def test_a_given_weight_variance_zeroes_the_biases_too() -> None:
    assert bool((initialize(nn.Linear(5, 5), weight_var=1.0).bias == 0).all())


def test_default_is_what_pytorch_draws() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(8)
        layer = nn.Linear(7, 9)
    again = initialize(nn.Linear(7, 9), "default", seed=8)
    assert torch.equal(layer.weight, again.weight)
    assert torch.equal(layer.bias, again.bias)


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_reproduces_and_leaves_the_global_state(name: str) -> None:
    layers = [nn.Conv1d(3, 4, 3) for _ in range(3)]
    state = torch.random.get_rng_state()
    one, same, other = (
        weight_of(initialize(layer, name, seed=seed)) for layer, seed in zip(layers, (1, 1, 2), strict=True)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_normalizations_and_missing_biases_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 2))
    assert initialize(model, "kaiming", bias=0.1) is model
    assert bool((model.get_parameter("1.weight") == 1).all())
    assert model.get_submodule("0").bias is None


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"name": "xavier_unifrom"},
            UnknownNameError,
            f"no initialization 'xavier_unifrom'; there are: {', '.join((*NAMES, *WHOLE))} "
            "(did you mean 'xavier_uniform'?)",
        ),
        (
            {"name": "kaiming", "weight_var": 1.0},
            InvalidValueError,
            "weight_var= sets the variance of the weights, and so does init 'kaiming': give one of them",
        ),
        (
            {"bias": 0.0, "bias_var": 1.0},
            InvalidValueError,
            "bias_var= draws the biases and bias= sets them: give one of them",
        ),
        ({"weight_var": -1.0}, InvalidValueError, "weight_var must be at least 0, not -1"),
        ({"gain": math.nan}, InvalidValueError, "gain must be finite, not nan"),
        ({"bias_var": "big"}, InvalidTypeError, "bias_var must be a number, not 'big'"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        initialize(nn.Linear(2, 2), **arguments)


def test_a_model_without_layers_is_an_error() -> None:
    message = "Sequential has no linear or convolutional layer to initialize"
    with pytest.raises(InvalidValueError, match=f"^{message}$"):
        initialize(nn.Sequential(nn.ReLU()), "kaiming")
