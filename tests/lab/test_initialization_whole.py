"""Initializations that look at the whole model: critical by theory, and centred per unit on a sample."""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradscope as gs
from gradscope.errors import GradscopeError, InvalidTypeError, InvalidValueError
from gradscope.lab.blocks import ACTIVATIONS
from gradscope.lab.initialization import initialize

WIDTH = 200


def scaled_variance(layer: nn.Module) -> float:
    """sigma_w^2: fan_in times the variance of the weights."""
    weight = layer.get_parameter("weight").detach().double()
    return float(weight.square().mean()) * weight[0].numel()


def deep(activation: str, **settings: Any) -> nn.Module:
    return gs.lab.mlp(4, WIDTH, activation, "critical", inputs=WIDTH, outputs=WIDTH, seed=0, **settings)


@pytest.mark.parametrize("name", [one for one in ACTIVATIONS if one not in ("gelu", "silu")])
@pytest.mark.parametrize("bias_var", [None, 0.3])
def test_weights_have_the_critical_variance_of_theory(name: str, bias_var: float | None) -> None:
    expected = gs.theory.critical(name, bias_var or 0.0)
    for layer in deep(name, bias_var=bias_var).modules():
        if isinstance(layer, nn.Linear):
            assert scaled_variance(layer) == pytest.approx(expected, rel=0.04)
            assert float(layer.bias.detach().var()) == pytest.approx(bias_var or 0.0, rel=0.4)


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_without_a_stable_point_at_zero_biases_biases_are_drawn(name: str) -> None:
    model = deep(name)
    point = gs.theory.stationary_criticality(name)
    assert scaled_variance(model.get_submodule("hidden.1.linear")) == pytest.approx(point.weight_var, rel=0.04)
    biases = torch.cat([layer.bias.detach() for layer in model.modules() if isinstance(layer, nn.Linear)])
    assert float(biases.var()) == pytest.approx(point.bias_var, rel=0.15)


def test_where_theory_knows_no_critical_variance_it_says_so() -> None:
    with pytest.raises(GradscopeError, match=r"^no weight variance makes gelu critical at bias_var = 0: "):
        deep("gelu", bias_var=0.0)


@pytest.mark.parametrize("sample", [None, torch.randn(8, WIDTH)])
def test_the_activation_that_the_input_comes_through_decides(sample: Tensor | None) -> None:
    model = nn.Sequential(
        nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.ReLU(inplace=True), nn.Linear(WIDTH, WIDTH)
    )
    initialize(model, "critical", sample=sample, seed=1)
    found = [scaled_variance(layer) for layer in model if isinstance(layer, nn.Linear)]
    assert found == pytest.approx([1.0, 1.0, 2.0], rel=0.04)


def test_a_leak_of_its_own_is_taken_into_account() -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Identity(), nn.LeakyReLU(0.5), nn.Linear(WIDTH, WIDTH))
    initialize(model, "critical", seed=1)
    assert scaled_variance(model[3]) == pytest.approx(2 / 1.25, rel=0.04)


def test_an_activation_that_theory_has_no_name_for() -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Hardtanh(-2, 2), nn.Linear(WIDTH, WIDTH))
    initialize(model, "critical", bias_var=0.1, seed=1)
    # chi = sigma_w^2 P(|u| < 2) and q = sigma_w^2 E phi^2 + sigma_b^2, by simulation.
    variance = scaled_variance(model[2])
    u = torch.randn(400_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q = 1.0
    for _ in range(60):
        q = variance * float((u * math.sqrt(q)).clamp(-2, 2).square().mean()) + 0.1
    assert variance * float((u.abs() * math.sqrt(q) < 2).double().mean()) == pytest.approx(1.0, abs=0.06)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.second(F.relu(self.first(x)))
        return output


def test_functions_are_seen_with_a_sample_only() -> None:
    message = (
        "no activation module is registered between layer 'first' and the next; give sample=, a batch of inputs, with "
        "which the graph is read"
    )
    with pytest.raises(InvalidValueError, match=f"^{re.escape(message)}$"):
        initialize(Functional(), "critical")
    model = initialize(Functional(), "critical", sample=torch.randn(4, WIDTH), seed=0)
    assert scaled_variance(model.second) == pytest.approx(2.0, rel=0.04)


def test_gain_and_constant_biases_go_with_critical() -> None:
    model = initialize(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()), "critical", gain=3.0, bias=0.5, seed=0)
    assert scaled_variance(model[0]) == pytest.approx(18.0, rel=0.04)
    assert model.get_parameter("0.bias").tolist() == [0.5] * WIDTH


@pytest.mark.parametrize("name", ["critical", "centered_lsuv"])
def test_a_seed_reproduces_and_leaves_the_global_state(name: str) -> None:
    sample = torch.rand(64, 64)
    state = torch.get_rng_state()
    one, same, other = (
        initialize(gs.lab.mlp(3, 16, seed=5), name, sample=sample, seed=seed).get_parameter("hidden.1.linear.weight")
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(9, 7), (50, 9)),
    "linear on sequences": (lambda: nn.Linear(9, 7), (20, 5, 9)),
    "convolution": (lambda: nn.Conv2d(4, 6, 3, groups=2), (20, 4, 5, 5)),
    "one dimension": (lambda: nn.Conv1d(4, 6, 3), (20, 4, 9)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, stride=2), (20, 4, 5, 5)),
    "float64": (lambda: nn.Linear(9, 7).double(), (50, 9)),
}


@pytest.mark.parametrize("shape", LAYERS)
def test_each_unit_is_centred_and_has_the_chosen_spread(shape: str) -> None:
    build, size = LAYERS[shape]
    layer = build()
    x = 3 + torch.randn(size, dtype=layer.get_parameter("weight").dtype)
    model = nn.Sequential(layer, nn.Tanh(), nn.Flatten(), nn.Linear(layer(x)[0].numel(), 3, dtype=x.dtype))
    initialize(model, "centered_lsuv", sample=x, gain=1.5, seed=0)
    for output, units in ((layer(x), -1 if isinstance(layer, nn.Linear) else 1), (model(x), 1)):
        rows = output.detach().movedim(units, -1).flatten(0, -2)
        assert torch.allclose(rows.mean(0), torch.zeros_like(rows[0]), atol=2e-5)
        assert torch.allclose(rows.std(0), torch.full_like(rows[0], 1.5), rtol=1e-4)


def test_a_unit_without_a_bias_is_scaled_only_and_a_constant_one_centred_only() -> None:
    model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 3))
    x = 1 + torch.rand(40, 4)
    initialize(model, "centered_lsuv", sample=x, seed=0)
    assert torch.allclose(model[0](x).std(0), torch.ones(5), rtol=1e-4)
    assert float(model[0](x).detach().mean(0).abs().max()) > 0.1
    constant = torch.ones(40, 4)
    initialize(model, "centered_lsuv", sample=constant, seed=0)
    assert torch.allclose(model(constant), torch.zeros(40, 3), atol=1e-6)
    assert bool(torch.isfinite(model.get_parameter("2.weight")).all())


def test_a_layer_that_is_called_twice_is_fitted_to_its_first_call() -> None:
    shared = nn.Linear(8, 8)
    model, x = nn.Sequential(shared, nn.Tanh(), shared), torch.randn(60, 8)
    initialize(model, "centered_lsuv", sample=x, seed=0)
    assert torch.allclose(shared(x).std(0), torch.ones(8), rtol=1e-4)


def test_buffers_flags_and_hooks_come_back() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2)).eval()
    model[2].train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    x, state = 2 + torch.randn(30, 6), torch.get_rng_state()
    initialize(model, "centered_lsuv", sample=x, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.named_buffers())
    assert [module.training for module in model.modules()] == [False, False, False, True, False]
    assert not any(module._forward_hooks for module in model.modules())


def test_a_failing_model_leaves_no_hook() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(5, 2))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        initialize(model, "centered_lsuv", sample=torch.randn(30, 6))
    assert not any(module._forward_hooks for module in model.modules())


def parametrized() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 2))


class Divided(nn.Module):
    """Divides by zero."""

    def forward(self, x: Tensor) -> Tensor:
        return x / 0.0


COMPUTED = "layer '0' computes its weight (a parametrization), or has no shape yet: it cannot be drawn"
REFUSED: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], str]] = {
    "no sample": (
        lambda: nn.Linear(4, 2),
        {"name": "centered_lsuv"},
        "init 'centered_lsuv' fits units to a sample of inputs: initialize(model, 'centered_lsuv', sample=x), once the "
        "model is built",
    ),
    "one sample": (
        lambda: nn.Linear(4, 2),
        {"name": "centered_lsuv", "sample": torch.ones(1, 4)},
        "layer 'Linear' sees 1 sample; units are centred over at least 2",
    ),
    "biases": (
        lambda: nn.Linear(4, 2),
        {"name": "centered_lsuv", "sample": torch.ones(9, 4), "bias_var": 0.1},
        "init 'centered_lsuv' sets the biases so that units are centred: leave them to it",
    ),
    "no sample in it": (
        lambda: nn.Linear(4, 2),
        {"name": "centered_lsuv", "sample": torch.ones(0, 4)},
        "sample holds no sample: its shape is (0, 4)",
    ),
    "not a number": (
        lambda: nn.Linear(4, 2),
        {"name": "centered_lsuv", "sample": torch.tensor([[1.0, math.nan, 3.0, math.inf]] * 9)},
        "sample holds NaN or infinity in 18 of 36 entries",
    ),
    "not a number, critical": (
        lambda: nn.Linear(4, 2),
        {"name": "critical", "sample": torch.full((9, 4), math.nan)},
        "sample holds NaN or infinity in 36 of 36 entries",
    ),
    "an infinity on the way": (
        lambda: nn.Sequential(nn.Linear(4, 4), Divided(), nn.Linear(4, 2)),
        {"name": "centered_lsuv", "sample": torch.randn(20, 4)},
        "layer '2' returns NaN or infinity on the sample: nothing to centre",
    ),
    "weight variance": (
        lambda: nn.Linear(4, 2),
        {"name": "critical", "weight_var": 2.0},
        "weight_var= sets the variance of the weights, and so does init 'critical': give one of them",
    ),
    "computed": (parametrized, {"name": "critical"}, COMPUTED),
    "computed, on a sample": (parametrized, {"name": "centered_lsuv", "sample": torch.ones(9, 4)}, COMPUTED),
    "no layer": (nn.ReLU, {"name": "critical"}, "ReLU has no linear or convolutional layer to initialize"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    build, arguments, message = REFUSED[name]
    model = build()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InvalidValueError, match=f"^{re.escape(message)}$"):
        initialize(model, **arguments)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_failing_model_keeps_its_weights() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(5, 2))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        initialize(model, "centered_lsuv", sample=torch.randn(30, 6))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("samples", "warned"), [(2, True), (15, True), (16, False)])
def test_few_samples_are_warned_of(samples: int, warned: bool) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        initialize(nn.Linear(4, 2), "centered_lsuv", sample=torch.randn(samples, 4))
    message = f"init 'centered_lsuv' fits each unit to {samples} values of the sample: give at least 16 samples"
    assert [str(one.message) for one in caught] == [f"{message}, better 256"] * warned
    # The warning points at the line that initializes.
    assert [one.filename for one in caught] == [__file__] * warned


def test_positions_of_a_convolution_count() -> None:
    """Sixteen positions of one picture are as many values of a channel; warnings are errors here."""
    initialize(nn.Conv2d(1, 3, 3, padding=1), "centered_lsuv", sample=torch.randn(1, 1, 4, 4))


def test_a_number_is_no_model() -> None:
    with pytest.raises(InvalidTypeError, match=r"^model is a torch\.nn\.Module, not int$"):
        initialize(3, "critical")  # type: ignore[type-var]


def test_an_array_is_no_sample() -> None:
    with pytest.raises(InvalidTypeError, match="sample is a tensor, not ndarray: give"):
        initialize(nn.Linear(4, 2), "centered_lsuv", sample=torch.randn(20, 4).numpy())


def accuracy(model: nn.Module, digits: gs.lab.data.Data) -> float:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for x, y in gs.lab.data.batches(digits, 64, 300):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        return float((model(digits.x_test).argmax(1) == digits.y_test).double().mean())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_deep_sigmoids_learn_digits_from_a_centred_start(seed: int) -> None:
    digits = gs.lab.data.load("digits")
    model = gs.lab.mlp(8, 64, "sigmoid", "xavier", seed=seed)
    initialize(model, "centered_lsuv", sample=digits.x_train[:256], seed=seed)
    assert gs.preflight(model, digits.x_train[:256], digits.y_train[:256]).codes == ()
    assert accuracy(model, digits) > 0.93


def test_deep_sigmoids_do_not_learn_from_xavier() -> None:
    digits = gs.lab.data.load("digits")
    assert accuracy(gs.lab.mlp(8, 64, "sigmoid", "xavier", seed=0), digits) < 0.15
