"""Single random networks of finite width: how they scatter around theory, and what an interval covers."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from gradscope.errors import InvalidValueError
from gradscope.runs.decay import decay
from gradscope.theory import (
    ACTIVATIONS,
    Stage,
    Start,
    finite_width_slope,
    isometry_ratio,
    kappa,
    largest_singular_value,
    mean_field,
    propagate,
)

Array = NDArray[np.float64]
WIDTH, DEPTH, NETWORKS = 64, 31, 200


@lru_cache(maxsize=16)
def profiles(activation: str, weight_var: float, bias_var: float = 0.0, orthogonal: bool = False) -> Array:
    """Return ln |dL/dz_l|, a row per random network, a column per layer."""
    return np.array([_profile(activation, weight_var, bias_var, orthogonal, seed) for seed in range(NETWORKS)])


def _profile(activation: str, weight_var: float, bias_var: float, orthogonal: bool, seed: int) -> Array:
    random, phi = np.random.default_rng(seed), ACTIVATIONS[activation]
    signal = random.normal(size=WIDTH)
    signal *= math.sqrt(WIDTH) / np.linalg.norm(signal)
    weights, outputs = [], []
    for _ in range(DEPTH):
        weights.append(_matrix(random, orthogonal) * math.sqrt(weight_var))
        outputs.append(weights[-1] @ signal + random.normal(0, math.sqrt(bias_var), WIDTH))
        signal = phi.phi(outputs[-1])
    gradient = random.normal(size=WIDTH)
    logs = [math.log(np.linalg.norm(gradient))]
    for weight, output in zip(weights[:0:-1], outputs[-2::-1], strict=True):
        gradient = (weight.T @ gradient) * phi.slope(output)
        logs.append(math.log(np.linalg.norm(gradient)))
    return np.array(logs[::-1])


def _matrix(random: np.random.Generator, orthogonal: bool) -> Array:
    drawn = random.normal(0, 1 / math.sqrt(WIDTH), (WIDTH, WIDTH))
    if not orthogonal:
        return drawn
    q, r = np.linalg.qr(drawn)
    return np.asarray(q * np.sign(np.diag(r)))


def test_kappa_is_the_tabulated_one() -> None:
    known = {"linear": 2.0, "relu": 5.0, "leaky_relu": 4.9988, "tanh": 3.750, "sigmoid": 2.411, "elu": 2.995}
    known |= {"selu": 2.949, "gelu": 5.265, "silu": 4.970, "softsign": 5.409}
    assert {name: kappa(name) for name in known} == pytest.approx(known, abs=5.1e-4)
    assert kappa(lambda u: np.where(u > 0, u, 0.2 * u)) == pytest.approx(4.556, abs=5.1e-4)
    assert kappa("relu", orthogonal=True) == pytest.approx(3.0)
    with pytest.raises(InvalidValueError, match=r"^q is a finite number not below 0, not -1$"):
        kappa("relu", -1)


@pytest.mark.parametrize(
    ("activation", "weight_var", "orthogonal", "beta"),
    [("identity", 1.0, False, 0.938), ("relu", 2.0, False, 2.344), ("relu", 2.0, True, 1.406)],
)
def test_the_scatter_of_homogeneous_networks(activation: str, weight_var: float, orthogonal: bool, beta: float) -> None:
    stage = Stage(weight_var, activation=activation, fan_in=WIDTH, fan_out=WIDTH, orthogonal=orthogonal)
    level = propagate([stage] * DEPTH)[0]
    assert 4 * level.log_var == pytest.approx(beta, abs=1e-3)
    assert level.typical == pytest.approx(-beta / 4, abs=1e-3)
    logs = profiles(activation, weight_var, 0.0, orthogonal)
    total = logs[:, 0] - logs[:, -1]
    assert total.mean() == pytest.approx(level.typical, abs=4 * math.sqrt(level.log_var / NETWORKS))
    # Variances of 200 draws are good to 10 %; the next order in 1 / N adds as much.
    assert total.var(ddof=1) / level.log_var == pytest.approx(1.1, abs=0.4)
    assert 0.88 <= np.mean((level.low <= total) & (total <= level.high)) <= 0.99


@pytest.mark.parametrize(
    ("activation", "weight_var", "bias_var", "beta", "measured"),
    [("tanh", 1.760955, 0.05, 1.419, 1.873), ("tanh", 25 / 9, 0.0, 1.885, 2.739), ("sigmoid", 1.0, 0.0, 0.967, 1.008)],
)
def test_noise_of_q_adds_to_kappa(
    activation: str, weight_var: float, bias_var: float, beta: float, measured: float
) -> None:
    fixed = mean_field(activation, weight_var, bias_var)
    stage = Stage(weight_var, bias_var, activation, fan_in=WIDTH, fan_out=WIDTH)
    level = propagate([stage] * DEPTH, Start(fixed.q))[0]
    assert (DEPTH - 1) * kappa(activation, fixed.q) / WIDTH == pytest.approx(beta, abs=1e-3)
    # `measured` is the variance of 600 simulated networks.
    assert beta < 4 * level.log_var < measured
    assert 4 * level.log_var == pytest.approx(measured, rel=0.15)


def test_where_noise_of_q_grows_the_band_knows_it() -> None:
    level = propagate([Stage(2.0, activation="gelu", fan_in=WIDTH, fan_out=WIDTH)] * DEPTH, Start(2.0))[0]
    logs = profiles("gelu", 2.0)
    total = logs[:, 0] - logs[:, -1]
    assert level.sensitive
    assert total.var(ddof=1) == pytest.approx(level.log_var, rel=0.4)
    assert 0.88 <= np.mean((level.low <= total) & (total <= level.high)) <= 0.99


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("weight_var", [0.3, 1.0, 2.0, 25 / 9])
def test_gelu_and_silu_near_two_are_sensitive(activation: str, weight_var: float) -> None:
    for width in (0, 512):
        stage = Stage(weight_var, activation=activation, fan_in=width, fan_out=width)
        levels = propagate([stage] * 30, Start(weight_var))
        assert levels[0].sensitive == (activation in ("gelu", "silu") and weight_var == 2.0)
        assert not levels[-1].sensitive


@pytest.mark.parametrize(
    ("activation", "weight_var", "bias_var"), [("relu", 2.0, 0.0), ("identity", 1.0, 0.0), ("relu", 1.0, 0.0)]
)
def test_the_interval_of_the_decay_covers_the_value_of_finite_width(
    activation: str, weight_var: float, bias_var: float
) -> None:
    chi = mean_field(activation, weight_var, bias_var).chi
    truth = math.exp(finite_width_slope(chi, kappa(activation), WIDTH))
    depths = range(1, DEPTH + 1)
    found = [decay(depths, pd.Series(np.exp(row), index=depths)) for row in profiles(activation, weight_var, bias_var)]
    assert 0.90 <= np.mean([one.low <= truth <= one.high for one in found]) <= 0.99
    rates = np.log([one.rate for one in found])
    error = math.sqrt(kappa(activation) / (4 * WIDTH * (DEPTH - 1) * NETWORKS))
    assert rates.mean() == pytest.approx(math.log(truth), abs=4 * error)


def test_a_batch_scatters_less_than_a_sample() -> None:
    stage = Stage(2.0, activation="relu", fan_in=WIDTH, fan_out=WIDTH)
    one, many, alike = (
        propagate([stage] * DEPTH, start)[0]
        for start in (Start(1.0), Start(1.0, 0.0, samples=32, rank=20.0), Start(1.0, 1.0, samples=32))
    )
    assert many.log_var < one.log_var / 3
    assert alike.log_var == pytest.approx(one.log_var)
    with pytest.raises(InvalidValueError, match=r"^rank of the start is between 1 and its samples, not 3 of 2$"):
        propagate([stage], Start(1.0, samples=2, rank=3.0))


def test_moments_of_the_jacobian() -> None:
    critical = mean_field("tanh", 1.760955, 0.05).q
    near_linear = mean_field("tanh", 1.086026, 1e-4).q
    assert isometry_ratio("linear", 10) == 11.0
    assert isometry_ratio("linear", 10, orthogonal=True) == 1.0
    assert isometry_ratio("relu", 10) == pytest.approx(21.0)
    assert isometry_ratio("relu", 10, orthogonal=True) == pytest.approx(11.0)
    assert isometry_ratio("tanh", 10, critical) == pytest.approx(14.42, abs=5e-3)
    assert isometry_ratio("tanh", 10, critical, orthogonal=True) == pytest.approx(4.42, abs=5e-3)
    assert isometry_ratio("tanh", 10, near_linear, orthogonal=True) == pytest.approx(1.115, abs=5e-4)
    assert isometry_ratio("tanh", 50, near_linear, orthogonal=True) == pytest.approx(1.573, abs=5e-4)
    assert [largest_singular_value(one) for one in (1, 2, 10)] == pytest.approx([2.0, 2.5981, 5.3415], abs=5e-5)
    assert largest_singular_value(3, 0.0) == 0.0
    with pytest.raises(InvalidValueError, match=r"^layers is a whole number from 1, not 0$"):
        isometry_ratio("relu", 0)


@pytest.mark.parametrize("orthogonal", [False, True])
def test_the_spectrum_of_a_real_jacobian(orthogonal: bool) -> None:
    random, width, layers = np.random.default_rng(3), 250, 6
    jacobian, signal = np.eye(width), random.normal(size=width)
    for _ in range(layers):
        weight = random.normal(0, 1 / math.sqrt(width), (width, width))
        if orthogonal:
            weight = np.linalg.qr(weight)[0]
        output = math.sqrt(2.0) * weight @ signal
        signal = np.maximum(output, 0.0)
        jacobian = (output > 0)[:, None] * (math.sqrt(2.0) * weight @ jacobian)
    squares = np.linalg.svd(jacobian, compute_uv=False) ** 2
    found = np.mean(squares**2) / np.mean(squares) ** 2
    assert found == pytest.approx(isometry_ratio("relu", layers, orthogonal=orthogonal), rel=0.15)
