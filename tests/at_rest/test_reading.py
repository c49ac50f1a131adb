"""What is read off a live model: stages, what follows them, skips, geometry, and weights that are no random draws."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradscope as gs
from gradscope.at_rest.reading_copy import undisturbed
from gradscope.at_rest.readings.functions import composed, named_activation, scaled
from gradscope.at_rest.readings.layers import is_orthogonal, outlier
from gradscope.at_rest.readings.model import read
from gradscope.theory import Pool, Residual, Stage, activation_of


def network(model: nn.Module, *shape: int) -> tuple[Stage | Residual, ...]:
    with undisturbed():
        return read(model, torch.randn(*shape, generator=torch.Generator().manual_seed(0))).network


def described(items: tuple[Stage | Residual, ...]) -> list[object]:
    """Names of stages with what follows each; skips as lists."""
    found: list[object] = []
    for one in items:
        if isinstance(one, Residual):
            found.append((described(one.branch), one.scale, described(one.shortcut)))
        else:
            found.append((one.name, one.norm, activation_of(one.activation).name, one.dropout))
    return found


def test_a_chain() -> None:
    model = nn.Sequential(
        nn.Linear(8, 16),
        nn.BatchNorm1d(16, eps=0.1),
        nn.ReLU(inplace=True),
        nn.Dropout(0.2),
        nn.Linear(16, 4),
        nn.Tanh(),
    )
    found = network(model, 64, 8)
    assert described(found) == [("0", "batch", "relu", pytest.approx(0.2)), ("1", "none", "tanh", 0.0)]
    first = found[0]
    assert isinstance(first, Stage)
    weight = model[0].weight
    assert isinstance(weight, Tensor)
    assert first.weight_var == pytest.approx(8 * float(weight.detach().square().mean()))
    assert (first.fan_in, first.fan_out, first.norm_eps, first.orthogonal) == (8, 16, 0.1, False)


def test_the_epsilon_of_a_layer_normalization_is_seen_where_it_matters() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16, eps=0.3), nn.Linear(16, 2))
    first = network(model, 4, 8)[0]
    assert isinstance(first, Stage)
    assert first.norm_eps == pytest.approx(0.3, rel=1e-3)


def test_a_scale_and_shift_of_a_normalization_follow_it() -> None:
    norm = nn.LayerNorm(16)
    nn.init.constant_(norm.weight, 3.0)
    nn.init.constant_(norm.bias, 0.5)
    found = network(nn.Sequential(nn.Linear(8, 16), norm, nn.ReLU(), nn.Linear(16, 2)), 4, 8)
    first, between = found[0], found[1]
    assert isinstance(first, Stage)
    assert isinstance(between, Stage)
    assert (first.norm, activation_of(first.activation).name) == ("layer", "identity")
    assert (between.weight_var, between.bias_var, between.name) == (9.0, 0.25, "")
    assert activation_of(between.activation).name == "relu"


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.entry, self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.over, self.alpha = nn.Linear(8, 8), nn.Parameter(torch.tensor(0.25))

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        x = x + self.alpha * self.two(F.relu(self.one(F.layer_norm(x, (8,)))))
        x = torch.add(self.over(x), self.one(x).tanh(), alpha=2)
        out: Tensor = F.relu(x)
        return out


def test_skips() -> None:
    found = network(Skip(), 4, 8)
    branch: list[object] = [("1", "none", "relu", 0.0), ("2", "none", "identity", 0.0)]
    assert described(found) == [
        ("0", "none", "identity", 0.0),
        (branch, 0.25, []),
        ([("4", "none", "tanh", 0.0)], 2.0, [("3", "none", "identity", 0.0)]),
    ]
    first, second = found[1], found[2]
    assert isinstance(first, Residual)
    assert isinstance(second, Residual)
    assert (first.before_norm, activation_of(second.activation).name) == ("layer", "relu")


def test_paths_that_cross_are_not_followed() -> None:
    class Crossing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            a = self.a(x)
            b = self.b(a)
            out: Tensor = (a + b) + (a.relu() + self.c(b))
            return out

    with undisturbed():
        found = read(Crossing(), torch.randn(3, 8))
    assert found.lost == dict.fromkeys((1, 2), "paths cross: what is added is neither a skip nor a branch of its own")


def test_the_geometry_of_convolutions() -> None:
    conv = nn.Conv2d(2, 6, (3, 5), stride=(2, 1), padding=(1, 2), groups=2, padding_mode="circular")
    model = nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 2 * 4, 3))
    first, last = network(model, 4, 2, 8, 8)
    assert isinstance(first, Stage)
    assert isinstance(last, Stage)
    geometry = first.convolution
    assert geometry is not None
    assert (geometry.size, geometry.kernel, geometry.padding, geometry.stride) == ((8, 8), (3, 5), (1, 2), (2, 1))
    assert (geometry.mode, geometry.delta, first.fan_in, first.fan_out) == ("circular", False, 15, 6)
    assert first.pool == Pool("max", (2, 2))
    assert last.convolution is None


def test_delta_orthogonal_kernels() -> None:
    conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
    nn.init.zeros_(conv.weight)
    with torch.no_grad():
        nn.init.orthogonal_(conv.weight[:, :, 1, 1])
    (first,) = network(nn.Sequential(conv), 2, 8, 4, 4)
    assert isinstance(first, Stage)
    assert first.convolution is not None
    assert (first.convolution.delta, first.orthogonal, first.fan_in) == (True, True, 8)
    assert first.weight_var == pytest.approx(1.0)


@pytest.mark.parametrize("shape", [(64, 64), (32, 128), (128, 32)])
def test_orthogonal_and_random_weights_are_told_apart(shape: tuple[int, int]) -> None:
    weight = torch.empty(shape)
    for seed in range(5):
        torch.manual_seed(seed)
        assert is_orthogonal(nn.init.orthogonal_(weight, gain=0.3))
        assert not is_orthogonal(nn.init.xavier_uniform_(weight))


@pytest.mark.parametrize("law", [nn.init.kaiming_uniform_, nn.init.xavier_normal_])
@pytest.mark.parametrize("shape", [(10, 64), (64, 64), (128, 288), (3, 500)])
def test_no_random_draw_looks_trained(shape: tuple[int, int], law: object) -> None:
    assert callable(law)
    for seed in range(20):
        torch.manual_seed(seed)
        assert outlier(law(torch.empty(shape, dtype=torch.float64))) == ""


def test_what_sticks_out_of_the_bulk_looks_trained() -> None:
    torch.manual_seed(0)
    weight = torch.randn(128, 128, dtype=torch.float64)
    # Above (n p)^(1/4) standard deviations a direction of rank one leaves the bulk (Baik, Ben Arous and Peche 2005).
    direction = torch.outer(
        F.normalize(torch.randn(128).double(), dim=0), F.normalize(torch.randn(128).double(), dim=0)
    )
    assert outlier(weight + 0.5 * math.sqrt(128) * direction) == ""
    assert "a few directions stand out" in outlier(weight + 3 * math.sqrt(128) * direction)
    assert "standard errors from zero" in outlier(weight + 0.3)


def test_constants_of_activation_functions_are_read() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU(0.3), nn.Linear(4, 4), nn.ELU(0.5), nn.Linear(4, 2))
    first, second, _ = network(model, 3, 4)
    u = torch.tensor([-2.0, 0.5], dtype=torch.float64)
    for one, expected in ((first, F.leaky_relu(u, 0.3)), (second, F.elu(u, 0.5))):
        assert activation_of(one.activation).phi(u.numpy()) == pytest.approx(expected.numpy())
        assert activation_of(one.activation).kinks == pytest.approx((0.0,), abs=1e-6)


def test_functions_of_functions() -> None:
    relu, tanh = named_activation("relu"), named_activation("tanh")
    assert relu is not None
    assert tanh is not None
    u = torch.linspace(-2, 2, 5, dtype=torch.float64).numpy()
    both = composed(relu, scaled(tanh, 2.0))
    assert both.phi(u) == pytest.approx(2 * torch.tanh(F.relu(torch.from_numpy(u))).numpy())
    assert both.slope(u[3:]) == pytest.approx(2 / torch.cosh(torch.from_numpy(u[3:])).square().numpy())
    assert named_activation("softmax") is None


def test_every_layer_of_a_watched_model_is_at_its_depth() -> None:
    model = gs.lab.cnn(3, 8, residual=True, norm="batch", seed=0)
    with undisturbed():
        found = read(model, torch.randn(4, 1, 8, 8))
    assert [one.layer.name for one in found.layers] == [
        *(f"features.{k}.conv" for k in range(3)),
        "hidden.linear",
        "head",
    ]
    assert [one.depth for one in found.layers] == [1, 2, 3, 4, 5]
    assert found.lost == {}
