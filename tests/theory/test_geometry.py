"""Convolutions and poolings of the recursion: what leaks, what fits, what is not known."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from gradscope.errors import InvalidValueError
from gradscope.theory import Convolution, Pool, Residual, Stage, Start, activation_of, mean_field, propagate
from gradscope.theory.geometry import box_filters, convolve, pool
from gradscope.theory.response import activate
from gradscope.theory.signal import Signal

ZEROS = Convolution((8, 8), (3, 3), (1, 1))
CIRCULAR = Convolution((8, 8), (3, 3), (1, 1), mode="circular")


def conv(weight_var: float, activation: str, geometry: Convolution, pool: Pool | None = None) -> Stage:
    return Stage(weight_var, activation=activation, convolution=geometry, pool=pool, name="conv")


@pytest.mark.parametrize(
    ("activation", "weight_var", "geometry", "rate"),
    [
        ("relu", 2.0, CIRCULAR, 1.0),
        ("relu", 2.0, ZEROS, 0.9541),
        ("tanh", 2.0, CIRCULAR, 1.0284),
        ("tanh", 2.0, ZEROS, 1.0108),
        ("tanh", 1.0, ZEROS, 0.8896),
        ("identity", 1.0, Convolution((8, 8), (3, 3), (1, 1), delta=True), 1.0),
        ("tanh", 1.0, Convolution((8, 8), (3, 3), (1, 1), delta=True), 0.9175),
    ],
)
def test_the_rate_of_twenty_convolutions(
    activation: str, weight_var: float, geometry: Convolution, rate: float
) -> None:
    # An even picture of mean square 1 in front of the first convolution: its output has leaked once.
    leak = 1.0 if geometry.delta or geometry.mode == "circular" else (11 / 12) ** 2
    levels = propagate([conv(weight_var, activation, geometry)] * 20, Start(weight_var * leak))
    assert math.exp(levels[0].log_gradient / 19) == pytest.approx(rate, abs=1e-4)


@pytest.mark.parametrize("size", [3, 8, 17])
def test_zeros_at_the_edge_leak_at_a_known_rate(size: int) -> None:
    geometry = Convolution((size, size), (3, 3), (1, 1))
    levels = propagate([conv(2.0, "relu", geometry)] * 400)
    # The largest eigenvalue of the tridiagonal filter, for either axis.
    assert math.sqrt(levels[200].chi) == pytest.approx((1 + 2 * math.cos(math.pi / (size + 1))) / 3, rel=1e-4)


def test_circular_convolutions_are_like_dense_layers() -> None:
    dense = propagate([Stage(1.5, 0.05, "tanh")] * 9, Start(0.8, 0.3))
    wrapped = propagate([Stage(1.5, 0.05, "tanh", convolution=CIRCULAR)] * 9, Start(0.8, 0.3))
    for one, other in zip(dense, wrapped, strict=True):
        assert (one.q, one.c, one.log_gradient) == pytest.approx((other.q, other.c, other.log_gradient), rel=1e-9)


def test_filters_of_any_geometry() -> None:
    (strided,) = box_filters(Convolution((7,), (3,), (1,), stride=(2,)))
    assert strided.shape == (4, 7)
    assert strided.sum(axis=1) == pytest.approx([2 / 3, 1.0, 1.0, 2 / 3])
    (wide,) = box_filters(Convolution((7,), (3,), (0,), dilation=(2,)))
    assert wide.shape == (3, 7)
    assert wide[0].tolist() == pytest.approx([1 / 3, 0, 1 / 3, 0, 1 / 3, 0, 0])
    (even,) = box_filters(Convolution((6,), (4,), (1,), mode="circular"))
    assert even.sum(axis=1) == pytest.approx([1.0] * 5)
    (centre,) = box_filters(Convolution((5,), (3,), (1,), delta=True))
    assert centre.tolist() == np.eye(5).tolist()


def test_a_measured_start_keeps_its_positions() -> None:
    picture = np.linspace(0.5, 1.5, 64).reshape(8, 8)
    levels = propagate([conv(2.0, "relu", CIRCULAR), Stage(1.0)], Start(picture))
    assert levels[0].q == pytest.approx(1.0)
    assert levels[1].q == pytest.approx(0.5)


def test_pooling_needs_to_know_its_neighbours() -> None:
    pool = Pool("mean", (2, 2))
    stages = [conv(2.0, "relu", CIRCULAR, pool), Stage(1.0, activation="relu"), Stage(1.0)]
    known = propagate(stages, Start(2.0, 0.0, neighbours=(1.0,)))
    assert known[1].q == pytest.approx(1.0)
    # Half of the slopes, a quarter by pooling: the gradient does not need q where phi is homogeneous.
    unknown = propagate(stages, Start(2.0, 0.0))
    assert unknown[0].chi == known[0].chi == pytest.approx(0.5 / 4)
    assert unknown[1].chi == pytest.approx(0.5)
    assert math.isnan(unknown[1].q)


def test_positions_of_equal_value_pool_to_that_value() -> None:
    for kind in ("mean", "max"):
        stages = [conv(2.0, "tanh", CIRCULAR, Pool(kind, (2, 2))), Stage(1.0)]
        levels = propagate(stages, Start(1.3, 0.2, neighbours=(1.0,)))
        assert levels[1].q == pytest.approx(levels[0].activation_square, rel=1e-5)
        assert levels[0].chi == pytest.approx(levels[0].slope / (4 if kind == "mean" else 1), rel=1e-5)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(InvalidValueError, match=r"^mode of a convolution is one of zeros, circular, not 'reflect'$"):
        propagate([Stage(1.0), conv(1.0, "relu", Convolution((8,), (3,), (1,), mode="reflect"))])
    with pytest.raises(InvalidValueError, match=r"^size, kernel, padding, stride and dilation of .* lengths$"):
        propagate([Stage(1.0), conv(1.0, "relu", Convolution((8, 8), (3,), (1,)))])
    with pytest.raises(InvalidValueError, match=r"^a kernel of 9 taps leaves nothing of 4 positions$"):
        propagate([Stage(1.0), conv(1.0, "relu", Convolution((4,), (9,), (0,)))])
    with pytest.raises(InvalidValueError, match=r"^convolution 'conv' reads positions \(4,\), .* positions \(8, 8\)$"):
        propagate([conv(1.0, "relu", ZEROS), conv(1.0, "relu", Convolution((4,), (3,), (1,)))])
    with pytest.raises(InvalidValueError, match=r"^a pooling over windows \(9, 9\) does not fit positions \(8, 8\)$"):
        propagate([conv(1.0, "relu", ZEROS, Pool("mean", (9, 9)))])
    shrinking = Residual((conv(1.0, "relu", Convolution((8, 8), (3, 3), (0, 0))),))
    with pytest.raises(
        InvalidValueError,
        match=r"^a skip adds positions \(8, 8\) to positions \(6, 6\) of its branch; they must be the same$",
    ):
        propagate([conv(1.0, "relu", ZEROS), shrinking])


def test_batch_norm_of_pictures_explodes_as_that_of_vectors() -> None:
    stage = Stage(2.0, activation="relu", norm="batch", norm_eps=0.0, convolution=CIRCULAR)
    levels = propagate([stage] * 10, Start(2.0, 0.0))
    assert levels[4].chi == pytest.approx(mean_field("relu", 2.0, norm="batch").chi, rel=1e-9)
    assert levels[4].status == "approximate: positions are taken to be as alike as different samples are"


def test_theory_loads_neither_torch_nor_plotly() -> None:
    script = "import gradscope as gs, sys; gs.theory.mean_field; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"torch", "plotly", "dash"}


def test_the_largest_of_a_window_of_units_with_a_mean() -> None:
    # Behind a sum units have a mean, here 1, and a mean square of 2; a sample of windows tells what max pooling makes.
    signal = Signal(np.full((4, 4), 2.0), (0.8, 0.75, 0.7), mean=1.0, windows=((2, 2),))
    phi = activation_of("identity")
    pooled, _ = pool(signal, activate(signal, phi), phi, Pool("max", (2, 2)))
    draw = np.random.default_rng(0)
    within, between = 0.4, 0.6
    first, other = draw.standard_normal((2, 200_000, 5))
    second = between * first + math.sqrt(1 - between**2) * other
    largest = [
        1.0 + (math.sqrt(within) * z[:, :1] + math.sqrt(1 - within) * z[:, 1:]).max(axis=1) for z in (first, second)
    ]
    square = float(np.mean(largest[0] ** 2))
    assert pooled.mean == pytest.approx(float(np.mean(largest[0])), rel=0.005)
    assert pooled.level == pytest.approx(square, rel=0.01)
    assert pooled.alike[0] == pytest.approx(float(np.mean(largest[0] * largest[1])) / square, rel=0.01)
    assert pooled.windows == ()


def test_what_positions_have_in_common_behind_zero_padding() -> None:
    # One channel of ones, convolved by independent weights: two positions share the taps that lie inside for both.
    draw = np.random.default_rng(0)
    size, kernel, count = 4, 3, 40_000
    taps = draw.standard_normal((count, kernel, kernel)) / kernel
    padded = np.pad(np.ones((size, size)), 1)
    rows = [[np.sum(taps * padded[i : i + 3, j : j + 3], axis=(1, 2)) for j in range(size)] for i in range(size)]
    z = np.asarray(rows).transpose(2, 0, 1)
    shape = Convolution((size, size), (kernel, kernel), (1, 1))
    entering = Signal(np.ones((size, size)), (1.0, 1.0, 1.0, 1.0), windows=((2, 2), (2, 2)))
    found, _ = convolve(entering, Stage(1.0, convolution=shape))
    q = float(np.mean(z**2))
    halves = z.reshape(count, 2, 2, 2, 2).mean(axis=(2, 4))
    window = (4 * float(np.mean(halves**2)) - q) / 3
    across = (4 * float(np.mean(z.mean(axis=(1, 2)) ** 2)) - float(np.mean(halves**2))) / 3
    assert found.level == pytest.approx(q, rel=0.02)
    assert found.alike[0] == 1.0
    measured = [float(np.mean(z.mean(axis=(1, 2)) ** 2)) / q, window / q, across / q]
    assert found.alike[1:] == pytest.approx(measured, rel=0.03)
    assert found.edge is not None
    shared = np.mean(z * z.mean(axis=(1, 2), keepdims=True), axis=0)
    assert found.edge == pytest.approx(shared / shared.mean(), rel=0.05)


def test_a_batch_norm_counts_positions_that_all_samples_have_alike() -> None:
    stages = [conv(1.0, "identity", ZEROS)]
    stages += [Stage(1.0, activation="sigmoid", norm="batch", convolution=CIRCULAR)] * 2
    flat, uneven = (propagate(stages, Start(1.0, 0.9, elsewhere=one)) for one in (0.9, 0.0))
    # What is the same at all positions is the mean, and goes; a picture that samples share stays.
    assert flat[2].c < 0.99 * uneven[2].c
    assert flat[1].c == uneven[1].c == pytest.approx(0.9)
