"""Moments of the singular values of the input-output Jacobian of a deep chain, and the scatter at finite width."""

from __future__ import annotations

import math

import numpy as np

from gradscope.errors import InvalidValueError
from gradscope.theory.expectations import moments
from gradscope.theory.functions import Activation, Function, activation_of
from gradscope.theory.mean_field import checked


def kappa(
    activation: str | Function | Activation,
    q: float = 1.0,
    *,
    orthogonal: bool = False,
) -> float:
    """Return kappa: ln |dL/dz_1|^2 / |dL/dz_L|^2 has variance sum of kappa / N over L - 1 layers of width N.

    kappa = 3 E[phi'^4] / (E[phi'^2])^2 - 1 at variance `q`; less 2 for orthogonal weights, whose lengths do not
    scatter. Its mean is ln prod chi - (sum of kappa / N) / 2: a typical network is below the average one. For phi that
    are not homogeneous the variance of q adds to it.

    Raises:
        UnknownNameError: No such activation.
        InvalidValueError: `q` is below zero or not finite.

    Sources: Hanin 2018; Hanin & Nica 2020.

    >>> kappa("linear"), round(kappa("relu"), 9), round(kappa("tanh"), 3)
    (2.0, 5.0, 3.75)
    """
    found = moments(activation_of(activation), checked("q", q))
    ratio = float(found.slope_fourth) / float(found.slope_square) ** 2 if found.slope_square > 0 else math.nan
    return 3.0 * ratio - (3.0 if orthogonal else 1.0)


def finite_width_slope(chi: float, kappa: float, width: float) -> float:
    """Return the mean of ln |dL/dz_l| - ln |dL/dz_l+1| in one network: (ln chi - kappa / 2N) / 2.

    >>> round(finite_width_slope(1.0, 5.0, 64), 6)
    -0.019531
    """
    return 0.5 * (math.log(chi) - kappa / (2.0 * width))


def isometry_ratio(
    activation: str | Function | Activation,
    layers: int,
    q: float = 1.0,
    *,
    orthogonal: bool = False,
) -> float:
    """Return m2 / m1^2 of the eigenvalues of J J^T of `layers` layers: 1 is dynamical isometry.

    m2 / m1^2 = 1 + L (mu_2 / mu_1^2 - 1 - s_1) with mu_k = E[phi'^2k] at variance `q`, and s_1 = -1 for independent
    weights, 0 for orthogonal ones. The mean itself is m1 = chi^L.

    Raises:
        UnknownNameError: No such activation.
        InvalidValueError: `layers` is below 1, or `q` below zero or not finite.

    Sources: Pennington, Schoenholz & Ganguli 2017; 2018.

    >>> isometry_ratio("linear", 10), round(isometry_ratio("relu", 10, orthogonal=True), 9)
    (11.0, 11.0)
    """
    found = moments(activation_of(activation), checked("q", q))
    spread = float(found.slope_fourth) / float(found.slope_square) ** 2 - 1.0
    return 1.0 + _layers(layers) * (spread + (0.0 if orthogonal else 1.0))


def largest_singular_value(layers: int, weight_var: float = 1.0) -> float:
    """Return the largest singular value of a product of `layers` square Gaussian matrices of infinite width.

    s_max^2 = sigma_w^2L (L+1)^(L+1) / L^L, about e L at sigma_w^2 = 1.

    Raises:
        InvalidValueError: `layers` is below 1, or the variance below zero or not finite.

    >>> [round(largest_singular_value(layers), 4) for layers in (1, 2, 10)]
    [2.0, 2.5981, 5.3415]
    """
    count = _layers(layers)
    variance = checked("weight_var", weight_var)
    if variance == 0.0:
        return 0.0
    log = count * math.log(variance) + (count + 1) * math.log(count + 1) - count * math.log(count)
    with np.errstate(over="ignore"):
        return float(np.exp(0.5 * log))


def _layers(layers: int) -> int:
    if layers < 1 or int(layers) != layers:
        raise InvalidValueError(f"layers is a whole number from 1, not {layers!r}")
    return int(layers)
