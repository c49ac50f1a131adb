"""Dead is a unit, not an entry; flat is a slope, not a value.

Tools that count zeros per entry call every healthy ReLU half dead (keras#7057); one that looked at a whole data set
never fired (keras-contrib#115); saturation measured as |x| > 0.95 accuses Linear layers, and as a low mean accuses
sigmoids at rest.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import gradscope as gs


def record(model: nn.Module, x: Tensor, folder: Path, steps: int = 1) -> gs.Run:
    with gs.watch(model, out=folder, every=1, metrics="all") as probe:
        for _ in range(steps):
            model(x).square().sum().backward()
            probe.step()
    return probe.run


def he_net(depth: int = 6, width: int = 128) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(depth):
        linear = nn.Linear(width, width)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def test_a_healthy_relu_net_has_half_zeros_and_no_dead_unit(tmp_path: Path) -> None:
    run = record(he_net(), torch.randn(256, 128), tmp_path / "run")
    zeros, dead = run.profile("zero_fraction"), run.profile("dead_fraction")
    assert zeros.between(0.35, 0.65).all()
    # Deep layers of a random net see inputs that are alike: a unit or two of 128 may rest on all of 256 samples.
    assert (dead <= 0.05).all()
    assert [finding.code for finding in gs.diagnose(run)] == []


def test_a_bias_of_minus_ten_kills_every_unit_of_its_layer_alone(tmp_path: Path) -> None:
    model = he_net(depth=3)
    linear = model[2]
    assert isinstance(linear, nn.Linear)
    nn.init.constant_(linear.bias, -100.0)
    run = record(model, torch.randn(256, 128), tmp_path / "run")
    dead = run.profile("dead_fraction")
    assert dead[2] == 1.0
    assert dead[1] < 0.05


@pytest.mark.parametrize("killed", [0, 1, 3, 8])
def test_a_channel_is_dead_over_batch_and_space_together(killed: int, tmp_path: Path) -> None:
    """A channel of a convolution that lives at a single place of a single sample is alive."""
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 8, 1)
    with torch.no_grad():
        conv.weight.fill_(1.0)
        conv.bias.zero_()  # type: ignore[union-attr]
        conv.bias[:killed] = -100.0  # type: ignore[index]
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2))
    x = -torch.ones(70, 1, 6, 6)
    x[17, 0, 3, 2] = 1.0
    run = record(model, x, tmp_path / "run")
    assert run.profile("dead_fraction")[1] == pytest.approx(killed / 8)
    assert run.profile("zero_fraction")[1] == pytest.approx(1 - (8 - killed) / (8 * 70 * 36), abs=1e-3)


def test_below_64_samples_there_is_no_verdict_and_steps_add_up(tmp_path: Path) -> None:
    run = record(he_net(depth=2), torch.randn(20, 128), tmp_path / "run", steps=5)
    frame = run.frame("dead_fraction")
    # 20, 40 and 60 samples are too few; 80 are not.
    assert frame.index.tolist() == [3, 4]


# phi, u, share of entries with |phi'(u)| < 1 % of its maximum.
KNOWN = [
    (nn.Sigmoid, 0.0, 0.0),
    (nn.Sigmoid, -4.0, 0.0),  # its value is 0.018, and its slope still 7 % of the maximum
    (nn.Sigmoid, 5.9, 0.0),
    (nn.Sigmoid, 6.1, 1.0),
    (nn.Sigmoid, -6.1, 1.0),
    (nn.Tanh, 2.9, 0.0),  # its value is 0.994
    (nn.Tanh, 3.1, 1.0),
    (nn.Tanh, -3.1, 1.0),
    (nn.ReLU, 1e4, 0.0),
    (nn.ReLU, -1.0, 1.0),
    (nn.LeakyReLU, -50.0, 0.0),  # its slope is exactly 1 %, which is not below 1 %
    (nn.ELU, -4.0, 0.0),
    (nn.ELU, -5.0, 1.0),
    (nn.SELU, -6.0, 1.0),
    (nn.GELU, 5.0, 0.0),
    (nn.GELU, -6.0, 1.0),
    (nn.SiLU, 20.0, 0.0),
    (nn.SiLU, -20.0, 1.0),
    (nn.Softplus, -6.0, 1.0),
    (nn.Softplus, 15.0, 0.0),
    (nn.Hardtanh, 0.5, 0.0),
    (nn.Hardtanh, 1.5, 1.0),
]


@pytest.mark.parametrize(("phi", "u", "share"), KNOWN, ids=lambda one: getattr(one, "__name__", str(one)))
def test_saturation_of_known_inputs(phi: type[nn.Module], u: float, share: float, tmp_path: Path) -> None:
    linear = nn.Linear(4, 4)
    nn.init.zeros_(linear.weight)
    nn.init.constant_(linear.bias, u)
    run = record(nn.Sequential(linear, phi(), nn.Linear(4, 2)), torch.randn(70, 4), tmp_path / "run")
    assert run.profile("saturation")[1] == share
    leaf = torch.tensor(u, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(phi()(leaf), leaf)
    assert run.profile("slope_rms")[1] == pytest.approx(abs(float(slope)), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("last", [nn.Sigmoid, nn.Tanh, None], ids=["sigmoid", "tanh", "none"])
def test_a_confident_output_layer_is_not_a_saturated_hidden_one(last: type[nn.Module] | None, tmp_path: Path) -> None:
    """Logits far from zero say that the network is sure; without a function of their own they have no saturation."""
    head = nn.Linear(16, 2)
    nn.init.constant_(head.bias, 7.0)
    body = [nn.Linear(8, 16), nn.Tanh(), head]
    model = nn.Sequential(*body, *([last()] if last is not None else []))
    run = record(model, 0.1 * torch.randn(70, 8), tmp_path / "run")
    saturation = run.frame("saturation")
    assert saturation.loc[0, 1] == 0.0
    if last is None:
        assert 2 not in saturation.columns
        assert run.layers["activation"].tolist() == ["tanh", "identity"]
    else:
        assert saturation.loc[0, 2] == 1.0
    assert [finding.code for finding in gs.diagnose(run)] == []


def test_values_near_one_of_a_layer_without_a_flat_function_are_no_saturation(tmp_path: Path) -> None:
    linear = nn.Linear(4, 4)
    nn.init.zeros_(linear.weight)
    nn.init.constant_(linear.bias, 0.99)
    run = record(
        nn.Sequential(linear, nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.ones(70, 4), tmp_path / "run"
    )
    assert 1 not in run.frame("saturation").columns
    assert math.isclose(run.profile("output_mean")[1], 0.99, rel_tol=1e-6)
