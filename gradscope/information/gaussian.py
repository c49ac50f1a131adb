"""Mutual information of jointly Gaussian variables."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from gradscope.information.arrays import Array, centred, pair
from gradscope.information.estimate import Estimate, interval, joined

NAME = "gaussian"
CROWDED = 10


def gaussian(x: ArrayLike, y: ArrayLike) -> Estimate:
    """Estimate I(X;Y) as if both were jointly Gaussian.

    From the canonical correlations rho_i::

        I = -1/2 sum_i ln(1 - rho_i^2)

    For other laws it is neither a lower nor an upper bound in general; it sees linear dependence only. Infinite where
    one is a linear function of the other.

    Args:
        x: Shape (samples, features).
        y: Shape (samples, features).

    Returns:
        The estimate in nats, less its bias of p q / 2n for p and q features, and not below zero; its interval by the
        delta method (the variance of the information density is sum_i rho_i^2). It warns where the features are more
        than a tenth of the samples.

    Raises:
        InvalidTypeError: An array holds no numbers.
        InvalidValueError: An array is empty or not finite, or their lengths differ.

    Source: Cover and Thomas 2006, section 8.5; Kay 1992 for the canonical form.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(4000, 1))
    >>> y = 0.9 * x + np.sqrt(1 - 0.81) * np.random.default_rng(1).normal(size=(4000, 1))
    >>> round(gaussian(x, y).value, 1)
    0.8
    """
    first, second = pair(x, y, least=3)
    count = len(first)
    correlations = _canonical(first, second)
    with np.errstate(divide="ignore"):
        raw = float(-0.5 * np.log1p(-(correlations**2)).sum())
    features = (np.linalg.matrix_rank(centred(first)), np.linalg.matrix_rank(centred(second)))
    bias = float(features[0] * features[1]) / (2 * count)
    value = max(0.0, raw - bias)
    error = math.sqrt(float((correlations**2).sum()) / count)
    crowded = sum(map(int, features)) > count / CROWDED
    return Estimate(
        value,
        *interval(value, error),
        NAME,
        count,
        {"bias": bias},
        warning=joined(
            f"{sum(map(int, features))} features for {count} samples: correlations by chance count as information"
            if crowded
            else "",
            "one is a linear function of the other" if math.isinf(value) else "",
        ),
    )


def _canonical(x: Array, y: Array) -> Array:
    """Return the canonical correlations; what is constant has none."""
    bases = []
    for one in (x, y):
        left, singular, _ = np.linalg.svd(centred(one), full_matrices=False)
        bases.append(left[:, singular > singular.max(initial=0.0) * 1e-10] if singular.any() else left[:, :0])
    found = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)
    # What lies within rounding of 1 is 1.
    return np.where(found > 1.0 - 1e-12, 1.0, found)
