"""Networks of the laboratory: layers, shapes, names, skips, seeds, messages."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

from gradscope.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from gradscope.lab.blocks import ACTIVATIONS, NORMS, POOLS
from gradscope.lab.models import cnn, mlp

LAYERS = (nn.Linear, nn.Conv2d)


def layer_names(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, LAYERS)]


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_an_mlp_has_a_hidden_layer_per_unit_of_depth_and_a_head(depth: int) -> None:
    names = layer_names(mlp(depth=depth))
    assert names == [*(f"hidden.{index}.linear" for index in range(depth)), "head"]


def test_a_cnn_has_convolutions_then_a_hidden_layer_and_a_head() -> None:
    names = layer_names(cnn(depth=2))
    assert names == ["features.0.conv", "features.1.conv", "hidden.linear", "head"]


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("build", [mlp, cnn])
def test_every_combination_carries_a_gradient_to_every_parameter(
    build: Any, activation: str, norm: str, residual: bool
) -> None:
    model = build(depth=3, width=6, activation=activation, norm=norm, residual=residual, seed=0)
    output = model(torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    output.square().sum().backward()
    assert output.shape == (5, 10)
    assert all(one.grad is not None and one.grad.isfinite().all() for one in model.parameters())


def test_a_block_is_layer_then_norm_then_activation_then_pooling() -> None:
    block = cnn(depth=1, activation="gelu", norm="batch").get_submodule("features.0")
    assert [name for name, _ in block.named_children()] == ["conv", "norm", "activation", "pool"]
    assert isinstance(block.get_submodule("activation"), nn.GELU)
    assert isinstance(block.get_submodule("norm"), nn.BatchNorm2d)


def test_layer_norm_of_a_picture_spans_channels_and_positions() -> None:
    model = cnn(depth=2, width=4, norm="layer")
    shapes = [one.normalized_shape for one in model.modules() if isinstance(one, nn.LayerNorm)]
    assert shapes == [(4, 8, 8), (4, 4, 4), (64,)]


def test_an_mlp_flattens_pictures_itself() -> None:
    model = mlp(depth=2, seed=1)
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(model(x), model(x.reshape(3, 64)))


def test_a_residual_mlp_adds_the_input_where_widths_match() -> None:
    model = mlp(depth=3, width=5, inputs=4, activation="tanh", residual=True, seed=2)
    a = model(torch.rand(2, 4))
    first, *rest = [model.get_submodule(f"hidden.{index}") for index in range(3)]
    x = torch.rand(2, 4)
    by_hand = torch.tanh(first.get_submodule("linear")(x))
    for block in rest:
        by_hand = by_hand + torch.tanh(block.get_submodule("linear")(by_hand))
    assert torch.equal(model(x), model.get_submodule("head")(by_hand))
    assert a.shape == (2, 10)


def test_a_residual_cnn_adds_before_it_pools() -> None:
    model = cnn(depth=2, width=3, residual=True, seed=2)
    x = torch.rand(2, 3, 4, 4)
    block = model.get_submodule("features.1")
    by_hand = torch.max_pool2d(x + torch.relu(block.get_submodule("conv")(x)), 2)
    assert torch.equal(block(x), by_hand)


@pytest.mark.parametrize(
    ("depth", "image", "expected"),
    [(1, (1, 8, 8), 1), (3, (1, 8, 8), 3), (9, (3, 8, 8), 3), (4, (1, 1, 5), 0), (2, (2, 9, 7), 2)],
)
def test_as_many_poolings_as_the_picture_allows(depth: int, image: tuple[int, int, int], expected: int) -> None:
    model = cnn(depth=depth, image=image, pool="mean")
    assert sum(isinstance(one, nn.AvgPool2d) for one in model.modules()) == expected
    assert model(torch.zeros(2, *image)).shape == (2, 10)


def test_circular_padding_commutes_with_a_shift() -> None:
    conv = cnn(depth=1, padding="circular", seed=0).get_submodule("features.0.conv")
    x = torch.rand(1, 1, 8, 8)
    assert torch.allclose(conv(x.roll(3, dims=3)), conv(x).roll(3, dims=3), atol=1e-6)


@pytest.mark.parametrize("build", [mlp, cnn])
def test_bias_is_a_switch_or_a_constant(build: Any) -> None:
    assert all(module.bias is None for module in build(bias=False).modules() if isinstance(module, LAYERS))
    for value in (0.25, 0.0, 0):
        biases = [module.bias for module in build(bias=value).modules() if isinstance(module, LAYERS)]
        assert all(bool((bias == value).all()) for bias in biases)


@pytest.mark.parametrize("build", [mlp, cnn])
@pytest.mark.parametrize("init", ["default", "orthogonal", "xavier"])
def test_a_seed_fixes_the_weights_and_leaves_the_global_state(build: Any, init: str) -> None:
    state = torch.random.get_rng_state()
    one, same, other = (build(init=init, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


def test_without_a_seed_the_global_state_decides() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        one = mlp(depth=1).get_parameter("head.weight")
        torch.manual_seed(7)
        same, other = (mlp(depth=1).get_parameter("head.weight") for _ in range(2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_one_seed_draws_the_same_weights_in_every_dtype() -> None:
    single, double = mlp(seed=5), mlp(seed=5, dtype="float64")
    assert double.get_parameter("head.weight").dtype == torch.float64
    assert torch.equal(single.get_parameter("head.weight").double(), double.get_parameter("head.weight"))
    assert mlp(dtype=torch.float64).get_parameter("head.weight").dtype == torch.float64


@pytest.mark.parametrize(
    ("build", "arguments", "error", "message"),
    [
        (mlp, {"depth": 0}, InvalidValueError, "depth must be at least 1, not 0"),
        (mlp, {"depth": 2.5}, InvalidTypeError, "depth must be a whole number, not 2.5"),
        (mlp, {"depth": True}, InvalidTypeError, "depth must be a whole number, not True"),
        (mlp, {"width": -1}, InvalidValueError, "width must be at least 1, not -1"),
        (mlp, {"seed": -1}, InvalidValueError, "seed must be at least 0, not -1"),
        (
            mlp,
            {"activation": "rellu"},
            UnknownNameError,
            f"no activation 'rellu'; there are: {', '.join(ACTIVATIONS)} (did you mean 'relu'?)",
        ),
        (
            cnn,
            {"norm": "group"},
            UnknownNameError,
            "no normalization 'group'; there are: none, batch, layer",
        ),
        (mlp, {"bias": "yes"}, InvalidTypeError, "bias must be True, False or a number, not 'yes'"),
        (
            mlp,
            {"bias": 1.0, "bias_var": 0.1},
            InvalidValueError,
            "bias_var= draws the biases and bias= sets them: give one of them",
        ),
        (
            mlp,
            {"dtype": "float46"},
            UnknownNameError,
            "no dtype 'float46'; there are: float16, bfloat16, float32, float64 (did you mean 'float64'?)",
        ),
        (
            cnn,
            {"kernel": 2},
            InvalidValueError,
            "kernel must be odd, so that a picture keeps its size, not 2",
        ),
        (
            cnn,
            {"image": (8, 8)},
            InvalidValueError,
            "image must be (channels, height, width), not (8, 8)",
        ),
        (cnn, {"pool": "min"}, UnknownNameError, f"no pooling 'min'; there are: {', '.join(POOLS)}"),
        (cnn, {"padding": "same"}, UnknownNameError, "no padding 'same'; there are: zeros, circular"),
    ],
)
def test_a_wrong_argument_is_named(build: Any, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        build(**arguments)
