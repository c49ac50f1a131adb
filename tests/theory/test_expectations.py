"""Gaussian expectations of functions with kinks, against closed forms and adaptive quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.special import erf

from gradscope.theory import ACTIVATIONS, activation_of
from gradscope.theory.expectations import moments, pair_moments
from gradscope.theory.kinks import find_kinks

Array = NDArray[np.float64]
VARIANCES = (1e-6, 0.02, 1.0, 7.0, 300.0, 1e6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("q", [0.05, 1.0, 6.0])
def test_moments_agree_with_adaptive_quadrature(activation: str, q: float) -> None:
    phi, found = ACTIVATIONS[activation], moments(ACTIVATIONS[activation], q)

    def expect(f: Callable[[Array], Array]) -> float:
        def integrand(z: float) -> float:
            return float(f(np.array([math.sqrt(q) * z]))[0]) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

        return float(sum(quad(integrand, *ends, epsabs=1e-13, epsrel=1e-13)[0] for ends in ((-12, 0), (0, 12))))

    assert found.mean == pytest.approx(expect(phi.phi), abs=1e-12)
    assert found.square == pytest.approx(expect(lambda u: phi.phi(u) ** 2), rel=1e-11)
    assert found.slope_square == pytest.approx(expect(lambda u: phi.slope(u) ** 2), rel=1e-11)
    assert found.slope_fourth == pytest.approx(expect(lambda u: phi.slope(u) ** 4), rel=1e-11)
    assert found.fourth == pytest.approx(expect(lambda u: phi.phi(u) ** 4), rel=1e-11)
    assert found.mixed == pytest.approx(expect(lambda u: (phi.phi(u) * phi.slope(u)) ** 2), rel=1e-11)
    step = 1e-4 * q
    slope = (float(moments(phi, q + step).square) - float(moments(phi, q - step).square)) / (2 * step)
    assert found.length_slope == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("q", VARIANCES)
def test_the_error_function_at_every_scale(q: float) -> None:
    phi = activation_of(erf, derivative=lambda u: 2 / math.sqrt(math.pi) * np.exp(-(u**2)), kinks=())
    found = moments(phi, q)
    assert found.square == pytest.approx(2 / math.pi * math.asin(2 * q / (1 + 2 * q)), rel=1e-12)
    assert found.slope_square == pytest.approx(4 / math.pi / math.sqrt(1 + 4 * q), rel=1e-12)
    for c in (-0.9, 0.0, 0.3, 0.999, 1.0):
        product, slopes = pair_moments(phi, q, c)
        assert product == pytest.approx(2 / math.pi * math.asin(2 * q * c / (1 + 2 * q)), rel=1e-7, abs=1e-12)
        known = 4 / math.pi / math.sqrt((1 + 2 * q) ** 2 - (2 * q * c) ** 2)
        assert slopes == pytest.approx(known, rel=1e-7)


@pytest.mark.parametrize("q", VARIANCES)
def test_relu_pairs_at_every_scale(q: float) -> None:
    for c in (-1.0, -0.4, 0.0, 0.5, 0.99, 1 - 1e-6, 1.0):
        product, slopes = pair_moments(ACTIVATIONS["relu"], q, c)
        angle = math.acos(c)
        assert product == pytest.approx(q * (math.sin(angle) + c * (math.pi - angle)) / (2 * math.pi), abs=1e-10 * q)
        assert slopes == pytest.approx((math.pi - angle) / (2 * math.pi), abs=1e-10)


def test_wide_tanh_has_a_limit() -> None:
    q = 1e8
    assert moments(ACTIVATIONS["tanh"], q).slope_square == pytest.approx(4 / 3 / math.sqrt(2 * math.pi * q), rel=1e-6)


def test_a_kink_away_from_zero_is_split_at_every_scale() -> None:
    hard = activation_of(lambda u: np.clip(u, -1.0, 1.0))
    for q in (0.01, 0.5, 1.0, 40.0, 1e6):
        assert moments(hard, q).slope_square == pytest.approx(erf(1 / math.sqrt(2 * q)), rel=1e-7)
        one, both = pair_moments(hard, q, 1 - 1e-14)
        assert one == pytest.approx(float(moments(hard, q).square), rel=1e-6)
        assert both == pytest.approx(float(moments(hard, q).slope_square), rel=1e-5)


def test_what_is_no_variance_has_no_moments() -> None:
    found = moments(ACTIVATIONS["relu"], np.array([math.nan, -1.0, math.inf, 0.0, 2.0]))
    assert np.isnan(found.square).tolist() == [True, True, True, False, False]
    assert found.slope_square[3:].tolist() == pytest.approx([0.5, 0.5])
    assert math.isnan(pair_moments(ACTIVATIONS["relu"], 1.0, math.nan)[0])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_many_variances_are_interpolated(activation: str) -> None:
    q = np.exp(np.random.default_rng(0).normal(size=(40, 40)))
    q[3, 3] = 0.0
    many, phi = moments(ACTIVATIONS[activation], q), ACTIVATIONS[activation]
    for place in ((3, 3), (0, 0), (17, 31)):
        one = moments(phi, float(q[place]))
        for name in ("mean", "square", "slope_square", "slope_fourth", "length_slope", "fourth", "mixed"):
            assert getattr(many, name)[place] == pytest.approx(float(getattr(one, name)), rel=1e-6, abs=1e-12)


def test_kinks_are_found_where_they_are() -> None:
    assert find_kinks(lambda u: np.maximum(u, 0.1 * u)) == (0.0,)
    assert find_kinks(lambda u: np.minimum(np.maximum(u, 0.0), 6.0)) == (0.0, 6.0)
    assert find_kinks(lambda u: np.abs(u - 1.2345) + 0.01 * np.abs(u + 20)) == (-20.0, 1.2345)
    assert find_kinks(lambda u: np.log1p(np.exp(-np.abs(u))) + np.maximum(u, 0.0)) == ()
    assert find_kinks(lambda u: u / (1 + np.exp(-10 * u))) == ()
    for phi in ACTIVATIONS.values():
        # Those of ELU and softsign are in the second derivative, which does no harm.
        assert set(find_kinks(phi.phi)) <= set(phi.kinks)


def test_numerical_slopes_keep_to_their_side_of_a_kink() -> None:
    for name in ("selu", "leaky_relu", "softsign", "gelu"):
        exact = ACTIVATIONS[name]
        numerical = activation_of(exact.phi, kinks=exact.kinks)
        u = np.concatenate([np.linspace(-9, 9, 4001), [-1e-7, 1e-7, 1e-12, -1e-12]])
        u = u[u != 0.0]
        assert numerical.slope(u) == pytest.approx(exact.slope(u), abs=1e-9)
