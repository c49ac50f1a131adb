"""Predictions against real layers of PyTorch: initializations, convolutions, normalizations, skips."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gradscope.theory import ACTIVATIONS, Convolution, Pool, Residual, Stage, Start, kappa, propagate

WIDTH, DEPTH, SEEDS = 512, 30, (1000, 1001, 1002)
PHI: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda u: u,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "leaky_relu": functional.leaky_relu,
    "elu": functional.elu,
    "selu": functional.selu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "softsign": functional.softsign,
}
# How weights are drawn, the weight variance that is, and the variance of the biases.
INITIALIZATIONS: dict[str, tuple[Callable[[Tensor], object] | None, float, float]] = {
    "xavier_uniform": (nn.init.xavier_uniform_, 1.0, 0.0),
    "xavier_normal": (nn.init.xavier_normal_, 1.0, 0.0),
    "orthogonal": (nn.init.orthogonal_, 1.0, 0.0),
    "kaiming_normal": (lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"), 2.0, 0.0),
    "kaiming_uniform": (lambda w: nn.init.kaiming_uniform_(w, nonlinearity="relu"), 2.0, 0.0),
    "default": (None, 1 / 3, 1 / 3 / WIDTH),
    "small": (lambda w: nn.init.normal_(w, std=0.01), WIDTH * 1e-4, 0.0),
    "gain": (lambda w: nn.init.xavier_normal_(w, gain=5 / 3), 25 / 9, 0.0),
}


def layers(initialization: str, seed: int) -> list[nn.Linear]:
    torch.manual_seed(seed)
    draw = INITIALIZATIONS[initialization][0]
    made = [nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH)]
    for one in made if draw else ():
        assert draw is not None
        draw(one.weight)
        nn.init.zeros_(one.bias)
    return [one.double() for one in made]


def increments(outputs: Sequence[Tensor], seed: int = 0) -> list[float]:
    """Return ln |dL/dz_l| - ln |dL/dz_l+1| for a random gradient of the last output."""
    last = outputs[-1]
    gradient = torch.randn(last.shape, generator=torch.Generator().manual_seed(seed), dtype=last.dtype)
    found = torch.autograd.grad(last, list(outputs), gradient)
    logs = [float(one.detach().norm().log()) for one in found]
    return [before - after for before, after in itertools.pairwise(logs)]


@lru_cache(maxsize=len(INITIALIZATIONS))
def measured(initialization: str) -> dict[str, float]:
    """Return the mean increment by activation, over all seeds: the same weights for every activation."""
    found: dict[str, list[float]] = {name: [] for name in PHI}
    for seed in SEEDS:
        made = layers(initialization, seed)
        for name, phi in PHI.items():
            signal = torch.randn(WIDTH, dtype=torch.float64)
            signal = signal * math.sqrt(WIDTH) / signal.norm()
            outputs = []
            for one in made:
                outputs.append(one(signal))
                signal = phi(outputs[-1])
            found[name] += increments(outputs, seed)
    return {name: float(np.mean(values)) for name, values in found.items()}


@pytest.mark.parametrize("initialization", INITIALIZATIONS)
def test_linear_layers_as_pytorch_draws_them(initialization: str) -> None:
    _, weight_var, bias_var = INITIALIZATIONS[initialization]
    orthogonal = initialization == "orthogonal"
    for name, rate in measured(initialization).items():
        stage = Stage(weight_var, bias_var, name, fan_in=WIDTH, fan_out=WIDTH, orthogonal=orthogonal)
        levels = propagate([stage] * DEPTH, Start(weight_var + bias_var))
        if levels[0].sensitive:
            assert name in ("gelu", "silu")
            continue
        scatter = kappa(name, levels[0].q)
        error = 1.5 * math.sqrt(scatter / (WIDTH * (DEPTH - 1) * len(SEEDS))) + scatter / (4 * WIDTH) + 0.001
        assert rate == pytest.approx(levels[0].log_gradient / (DEPTH - 1), abs=error), name


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_normalized_layers(norm: str) -> None:
    width, depth, batch = 256, 16, 128
    torch.manual_seed(5)
    made = [nn.Linear(width, width, bias=False, dtype=torch.float64) for _ in range(depth)]
    for one in made:
        nn.init.kaiming_normal_(one.weight, nonlinearity="relu")
    for name in ("relu", "tanh", "sigmoid", "gelu"):
        signal, outputs = torch.randn(batch, width, dtype=torch.float64), []
        for one in made:
            outputs.append(one(signal))
            signal = PHI[name](_normalized(outputs[-1], norm))
        stage = Stage(2.0, activation=name, norm=norm, fan_in=width, fan_out=width)  # type: ignore[arg-type]
        levels = propagate([stage] * depth, Start(2.0, 0.0))
        rates = np.array(increments(outputs))[4:]
        predicted = np.array([0.5 * math.log(one.chi) for one in levels[4:-1]])
        assert rates.mean() == pytest.approx(predicted.mean(), abs=0.02), name


def _normalized(z: Tensor, norm: str) -> Tensor:
    if norm == "layer":
        return functional.layer_norm(z, z.shape[1:])
    return functional.batch_norm(z, None, None, training=True)


@pytest.mark.parametrize(
    ("activation", "weight_var", "mode", "delta"),
    [
        ("relu", 2.0, "circular", False),
        ("relu", 2.0, "zeros", False),
        ("tanh", 2.0, "circular", False),
        ("tanh", 2.0, "zeros", False),
        ("tanh", 1.0, "zeros", False),
        ("tanh", 1.0, "zeros", True),
        ("relu", 2.0, "zeros", True),
        ("identity", 1.0, "zeros", True),
    ],
)
def test_convolutions(activation: str, weight_var: float, mode: str, delta: bool) -> None:
    channels, depth, size = 48, 12, 8
    geometry = Convolution((size, size), (3, 3), (1, 1), mode=mode, delta=delta)
    stage = Stage(weight_var, activation=activation, fan_out=channels, orthogonal=delta, convolution=geometry)
    levels = propagate([stage] * depth, Start(weight_var))
    totals = []
    for seed in range(4):
        torch.manual_seed(seed)
        signal, outputs = torch.randn(1, channels, size, size, dtype=torch.float64), []
        for _ in range(depth):
            weight = _kernel(channels, weight_var, delta)
            padded = functional.pad(signal, (1,) * 4, mode="constant" if mode == "zeros" else mode)
            outputs.append(functional.conv2d(padded, weight))
            signal = PHI[activation](outputs[-1])
        totals.append(sum(increments(outputs, seed)))
    allowed = 0.02 if not delta else 0.005 + 0.015 * (activation != "identity")
    assert np.mean(totals) / (depth - 1) == pytest.approx(levels[0].log_gradient / (depth - 1), abs=allowed)


def _kernel(channels: int, weight_var: float, delta: bool) -> Tensor:
    if not delta:
        drawn = torch.randn(channels, channels, 3, 3, dtype=torch.float64)
        return (drawn * math.sqrt(weight_var / (9 * channels))).requires_grad_()
    weight = torch.zeros(channels, channels, 3, 3, dtype=torch.float64)
    weight[:, :, 1, 1] = nn.init.orthogonal_(torch.empty(channels, channels, dtype=torch.float64))
    return (weight * math.sqrt(weight_var)).requires_grad_()


def test_convolutions_with_strides_and_poolings() -> None:
    channels = 64
    shapes = [((12, 12), (1, 1), (1, 1)), ((12, 12), (2, 2), (1, 1))]
    shapes += [((6, 6), (1, 1), (1, 1)), ((6, 6), (2, 1), (0, 1))]
    stages = [
        Stage(2.0, activation="relu", fan_out=channels, convolution=Convolution(size, (3, 3), padding, stride))
        for size, stride, padding in shapes
    ]
    levels = propagate([*stages, Stage(1.0)], Start(2.0))
    found, squares = [], []
    for seed in range(6):
        torch.manual_seed(seed)
        signal, outputs = torch.randn(1, channels, 12, 12, dtype=torch.float64), []
        for _, stride, padding in shapes:
            weight = _kernel(channels, 2.0, delta=False)
            outputs.append(functional.conv2d(signal, weight, stride=stride, padding=padding))
            signal = torch.relu(outputs[-1])
        weight = torch.randn(100, signal.numel(), dtype=torch.float64) / math.sqrt(signal.numel())
        outputs.append(weight @ signal.flatten())
        found.append(increments(outputs, seed))
        squares.append([float(one.detach().square().mean()) for one in outputs])
    assert np.mean(found, axis=0) == pytest.approx([0.5 * math.log(one.chi) for one in levels[:-1]], abs=0.06)
    # The first output is what the recursion starts from.
    scale = 2.0 / np.mean(squares, axis=0)[0]
    assert scale * np.mean(squares, axis=0)[1:] == pytest.approx([one.q for one in levels[1:]], rel=0.1)


@pytest.mark.parametrize(
    ("activation", "weight_var", "norm", "scale"),
    [
        ("relu", 2.0, "none", 1.0),
        ("relu", 2.0, "none", 12**-0.5),
        ("tanh", 1.0, "none", 1.0),
        ("relu", 2.0, "layer", 1.0),
        ("relu", 2.0, "batch", 1.0),
    ],
)
def test_residual_blocks(activation: str, weight_var: float, norm: str, scale: float) -> None:
    width, blocks, batch = 256, 12, 64
    block = Residual((Stage(weight_var),), scale, before_norm=norm, before_activation=activation)  # type: ignore[arg-type]
    levels = propagate([Stage(1.0), *[block] * blocks, Stage(1.0)], Start(1.0, 0.0))
    predicted = np.diff([one.log_gradient for one in levels[: blocks + 1]])
    # A level of a block is that of its layer, whose output the sum takes times the scale.
    predicted[0] -= math.log(scale)
    total = np.zeros(blocks)
    for seed in range(3):
        torch.manual_seed(seed)
        stream = [torch.randn(batch, width, dtype=torch.float64).requires_grad_()]
        for _ in range(blocks):
            weight = torch.randn(width, width, dtype=torch.float64) * math.sqrt(weight_var / width)
            entering = stream[-1] if norm == "none" else _normalized(stream[-1], norm)
            stream.append(stream[-1] + scale * PHI[activation](entering) @ weight.T)
        total += increments(stream, seed)
    # One number per place between blocks; level 0 stands in front of the first.
    assert total / 3 == pytest.approx(-predicted, abs=0.03)


def test_a_residual_block_that_ends_in_an_activation() -> None:
    width, blocks, batch = 256, 8, 64
    for name in ("relu", "tanh"):
        block = Residual((Stage(2.0, activation=name, fan_in=width, fan_out=width),))
        levels = propagate([Stage(1.0), *[block] * blocks, Stage(1.0)], Start(1.0, 0.0))
        logs = np.zeros(blocks)
        for seed in range(12):
            torch.manual_seed(seed)
            stream = torch.randn(batch, width, dtype=torch.float64)
            for at in range(blocks):
                outputs = stream @ torch.randn(width, width, dtype=torch.float64) * math.sqrt(2.0 / width)
                logs[at] += math.log(float(outputs.square().mean())) / 12
                stream = stream + PHI[name](outputs)
        # The mean over units grows, and with it the scatter of single networks.
        assert logs == pytest.approx(np.log([one.q for one in levels[1:-1]]), abs=0.1), name


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_residual_blocks_with_an_activation_behind_the_sum(activation: str, norm: str) -> None:
    width, blocks, batch, seeds = 256, 8, 96, 5
    branch = (Stage(2.0, activation=activation, norm=norm), Stage(2.0, norm=norm))  # type: ignore[arg-type]
    block = Residual(branch, activation=activation)
    levels = propagate([Stage(1.0, activation=activation), *[block] * blocks, Stage(1.0)], Start(1.0, 0.0))
    phi, logs, squares = PHI[activation], [], []
    for seed in range(seeds):
        torch.manual_seed(seed)
        outputs = [torch.randn(batch, width, dtype=torch.float64).requires_grad_()]
        stream = phi(outputs[0])
        for _ in range(blocks):
            signal = stream
            for last in (False, True):
                outputs.append(signal @ torch.randn(width, width, dtype=torch.float64) * math.sqrt(2.0 / width))
                signal = outputs[-1] if norm == "none" else _normalized(outputs[-1], norm)
                signal = signal if last else phi(signal)
            stream = phi(stream + signal)
        outputs.append(stream @ torch.randn(width, width, dtype=torch.float64) / math.sqrt(width))
        logs.append(np.cumsum(increments(outputs, seed)[::-1])[::-1])
        squares.append([float(one.detach().square().mean()) for one in outputs])
    # A percent per layer; positive means let q of single networks of this width scatter by a third.
    allowed = 0.01 * 2 * blocks
    assert np.mean(logs, axis=0) == pytest.approx([one.log_gradient for one in levels[:-1]], abs=allowed)
    assert np.log(np.mean(squares, axis=0)) == pytest.approx(np.log([one.q for one in levels]), abs=0.35)
    assert {one.status for one in levels} == {""}


@pytest.mark.parametrize("kind", ["mean", "max"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_pooling_of_positions_that_are_known_to_be_unlike(kind: str, activation: str) -> None:
    channels = 64
    geometry = Convolution((8, 8), (3, 3), (1, 1), mode="circular")
    pooled = Stage(2.0, activation=activation, fan_out=channels, convolution=geometry, pool=Pool(kind, (2, 2)))  # type: ignore[arg-type]
    after = Stage(2.0, fan_out=channels, convolution=Convolution((4, 4), (3, 3), (1, 1), mode="circular"))
    levels = propagate([pooled, after], Start(2.0, 0.0, neighbours=(0.0,)))
    found, squares = [], []
    for seed in range(4):
        torch.manual_seed(seed)
        entering = functional.pad(torch.randn(4, channels, 8, 8, dtype=torch.float64), (1,) * 4, mode="circular")
        first = functional.conv2d(entering, _kernel(channels, 2.0, delta=False))
        shrink = functional.avg_pool2d if kind == "mean" else functional.max_pool2d
        behind = functional.pad(shrink(PHI[activation](first), 2), (1,) * 4, mode="circular")
        second = functional.conv2d(behind, _kernel(channels, 2.0, delta=False))
        found += increments([first, second], seed)
        squares.append(float(second.detach().square().mean()))
    assert np.mean(found) == pytest.approx(0.5 * math.log(levels[0].chi), abs=0.03)
    assert np.mean(squares) == pytest.approx(levels[1].q, rel=0.06)
    unknown = propagate([pooled, after], Start(2.0, 0.0))
    assert math.isnan(unknown[1].q)
    assert unknown[1].status == (
        "what a pooling leaves depends on how alike neighbouring positions are, which the start does not say "
        "(neighbours=)"
    )


def test_every_activation_is_pytorchs_own() -> None:
    u = torch.linspace(-30.0, 30.0, 1201, dtype=torch.float64).requires_grad_()
    for name, phi in PHI.items():
        values = phi(u)
        (slope,) = torch.autograd.grad(values.sum(), u)
        away = np.abs(u.detach().numpy()) > 1e-9
        ours = ACTIVATIONS[name]
        assert ours.phi(u.detach().numpy()) == pytest.approx(values.detach().numpy(), abs=1e-14)
        assert ours.slope(u.detach().numpy())[away] == pytest.approx(slope.numpy()[away], abs=1e-14)
