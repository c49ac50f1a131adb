"""What the library is for, on the laboratory's own networks: numbers known from theory, recorded by a probe."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradscope as gs


def record(model: nn.Module, x: Tensor, folder: Path, cotangent: Tensor | None = None) -> gs.Run:
    with gs.watch(model, out=folder, every=1, metrics="all") as probe:
        out = model(x)
        out.backward(torch.randn_like(out) if cotangent is None else cotangent)
        probe.step()
    return probe.run


def unit_input(n: int, width: int) -> Tensor:
    x = torch.randn(n, width, dtype=torch.float64)
    return x / x.norm(dim=1, keepdim=True) * math.sqrt(width)


def test_relu_xavier_loses_its_error_signal_while_weight_gradients_stay_flat(tmp_path: Path) -> None:
    model = gs.lab.mlp(
        29, 512, "relu", "xavier_normal", inputs=512, outputs=512, bias=False, seed=0, dtype=torch.float64
    )
    run = record(model, unit_input(1, 512), tmp_path / "run")
    signal, weights = run.profile("output_grad_norm"), run.profile("weight_grad_norm")
    assert signal[1] / signal[30] == pytest.approx(4.3e-5, rel=0.5)
    assert weights[2] / weights[30] == pytest.approx(1.0, abs=0.35)
    # Per-layer ratio over the hidden layers: 0.707 against 1.000.
    assert (signal[1] / signal[30]) ** (1 / 29) == pytest.approx(math.sqrt(0.5), rel=0.02)
    assert (weights[2] / weights[30]) ** (1 / 28) == pytest.approx(1.0, rel=0.02)


def test_homogeneous_nets_share_one_weight_times_gradient(tmp_path: Path) -> None:
    model = gs.lab.mlp(5, 64, "relu", "kaiming_normal", outputs=8, bias=False, seed=0, dtype=torch.float64)
    products: list[float] = []

    @gs.metric(label="<W, dL/dW>")
    def weight_dot_gradient(weight: Tensor, weight_grad: Tensor) -> Tensor:
        return (weight * weight_grad).sum()

    try:
        run = record(model, torch.randn(16, 64, dtype=torch.float64), tmp_path / "run")
    finally:
        gs.metrics.unregister("weight_dot_gradient")
    products = list(run.profile("weight_dot_gradient"))
    assert len(products) == 6
    assert products == pytest.approx([products[0]] * 6, rel=1e-10)


CHAINS = {
    "mlp": lambda: (gs.lab.mlp(12, 32, "tanh", "xavier_normal", seed=1, dtype=torch.float64), (8, 64)),
    "mlp norm": lambda: (gs.lab.mlp(6, 32, "relu", norm="batch", seed=1, dtype=torch.float64), (8, 64)),
    "cnn": lambda: (gs.lab.cnn(4, activation="relu", seed=1, dtype=torch.float64), (8, 1, 8, 8)),
    "cnn norm": lambda: (gs.lab.cnn(3, activation="gelu", norm="batch", seed=1, dtype=torch.float64), (8, 1, 8, 8)),
}


@pytest.mark.parametrize("kind", CHAINS)
def test_the_ledger_of_a_chain_is_exact(kind: str, tmp_path: Path) -> None:
    model, shape = CHAINS[kind]()
    run = record(model, torch.randn(shape, dtype=torch.float64), tmp_path / "run")
    ledger, signal = run.ledger(), run.profile("output_grad_norm")
    depths = list(run.trunk)
    assert depths == list(run.layers["depth"])
    assert all(
        parents == ([depth - 1] if depth > 1 else []) for depth, parents in run.layers[["depth", "parents"]].to_numpy()
    )
    product = ledger["weight_gain"][depths[1:]].prod() * ledger["activation_gain"][depths[:-1]].prod()
    assert product == pytest.approx(signal[depths[0]] / signal[depths[-1]], rel=1e-9)
    np.testing.assert_allclose(ledger["path_gain"][depths[1:]], 1.0, rtol=1e-12)
    np.testing.assert_allclose(ledger["share"][depths[1:]], 1.0, rtol=1e-12)


def test_shares_of_a_residual_net_sum_to_one(tmp_path: Path) -> None:
    model = gs.lab.mlp(6, 32, "tanh", "xavier_normal", residual=True, inputs=32, seed=1, dtype=torch.float64)
    x = torch.randn(8, 32, dtype=torch.float64)
    cotangent = torch.randn(8, 10, dtype=torch.float64)
    run = record(model, x, tmp_path / "run", cotangent)
    ledger = run.ledger()
    assert list(run.trunk) == list(run.layers["depth"]) == list(range(1, 8))
    skips, totals = skip_gradients(model, x, cotangent)
    for depth in range(2, 7):
        skip_share = float((skips[depth] * totals[depth]).sum() / totals[depth].square().sum())
        assert ledger["share"][depth] + skip_share == pytest.approx(1.0, rel=1e-9)
        assert ledger["other_share"][depth] == pytest.approx(skip_share, rel=1e-9)
    signal = run.profile("output_grad_norm")
    factors = (
        ledger["weight_gain"][2:7].prod() * ledger["activation_gain"][1:6].prod() * ledger["path_gain"][2:7].prod()
    )
    assert ledger["cumulative"][1] == pytest.approx(math.log10(signal[1] / signal[7]), rel=1e-9)
    assert math.isfinite(factors)


def skip_gradients(model: nn.Module, x: Tensor, cotangent: Tensor) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """What the skips send back to the input of every hidden layer, by autograd on an unrolled copy."""
    weights = [(one.weight.detach(), one.bias.detach()) for one in model.modules() if isinstance(one, nn.Linear)]
    stream, taps = x.clone().requires_grad_(True), {}
    for depth, (weight, bias) in enumerate(weights[:-1], start=1):
        skip, branch = stream * 1.0, stream * 1.0
        taps[depth] = (stream, skip)
        stream = skip + torch.tanh(F.linear(branch, weight, bias))
    out = F.linear(stream, *weights[-1])
    skips = {k: torch.autograd.grad(out, skip, cotangent, retain_graph=True)[0] for k, (_, skip) in taps.items()}
    totals = {k: torch.autograd.grad(out, whole, cotangent, retain_graph=True)[0] for k, (whole, _) in taps.items()}
    return skips, totals


def test_parents_and_trunk_of_bottleneck_blocks(tmp_path: Path) -> None:
    class Block(nn.Module):
        def __init__(self, inside: int, outside: int) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(inside, outside, 3, padding=1), nn.Conv2d(outside, outside, 3, padding=1)
            self.short = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()
            self.norm = nn.BatchNorm2d(outside)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.norm(self.two(F.relu(self.one(x)))) + self.short(x))

    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), Block(4, 4), Block(4, 6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)
    )
    run = record(model, torch.randn(4, 1, 8, 8), tmp_path / "run")
    layers = run.layers.set_index("depth")
    assert layers["layer"].tolist() == ["0", "2.one", "2.two", "3.one", "3.two", "3.short", "6"]
    assert layers["parents"].tolist() == [[], [1], [2], [1, 3], [4], [1, 3], [5, 6]]
    assert list(run.trunk) == [1, 2, 3, 4, 5, 7]
    assert layers["activation"].tolist() == ["relu"] * 6 + ["identity"]
    assert layers["norm"].tolist() == ["none", "none", "batch", "none", "batch", "none", "none"]


def test_no_recorded_norm_is_zero_where_float64_gives_a_positive_one(tmp_path: Path) -> None:
    model = gs.lab.mlp(50, 64, "sigmoid", "default", seed=0)
    x, y = torch.rand(64, 64), torch.randint(0, 10, (64,))
    gradients: list[Tensor] = []

    def note(_: nn.Module, __: object, output: Tensor) -> None:
        output.register_hook(lambda grad: gradients.append(grad.detach().clone()))

    handles = [one.register_forward_hook(note) for one in model.modules() if isinstance(one, nn.Linear)]
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        F.cross_entropy(model(x), y).backward()
        weights = [one.weight.grad.double().norm() for one in model.modules() if isinstance(one, nn.Linear)]
        probe.step()
    for handle in handles:
        handle.remove()
    expected = [float(grad.double().norm()) for grad in reversed(gradients)]
    measured = probe.run.profile("output_grad_norm")
    assert len(expected) == len(measured) == 51
    assert list(measured) == pytest.approx(expected, rel=1e-6)
    assert all((value > 0) == (grad > 0) for value, grad in zip(measured, expected, strict=True))
    assert list(probe.run.profile("weight_grad_norm")) == pytest.approx([float(one) for one in weights], rel=1e-6)
    in_float32 = sum(float(grad.norm()) == 0 for grad in gradients)
    assert in_float32 > sum(value == 0 for value in expected)  # what a float32 norm would have lost
