"""The correlation map: how alike two inputs still are some layers on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq


def fixed_correlation(correlate: Callable[[float], float], chi: float) -> float:
    """Return the fixed point of a correlation map with slope `chi` at c = 1 that correlations below 1 come to.

    The map is convex on [0, 1] with non-negative values there, so that a second fixed point exists iff chi > 1.
    """
    if not chi > 1.0:
        return 1.0
    start = correlate(0.0)
    if start <= 1e-13:
        return 0.0
    for exponent in np.arange(1.0, 11.0):
        end = 1.0 - 10.0**-exponent
        if correlate(end) < end:
            return float(brentq(lambda c: correlate(c) - c, 0.0, end, xtol=1e-13, rtol=1e-13))
    return 1.0


def depth_scale(factor: float) -> float:
    """Return xi = -1 / ln|factor|: the layers over which a deviation falls by e; negative where it grows.

    Infinite for a factor of 1 (to 1e-9), 0 for a factor of 0.

    >>> round(depth_scale(0.5), 4), depth_scale(1.0), depth_scale(0.0)
    (1.4427, inf, 0.0)
    """
    if np.isnan(factor):
        return float("nan")
    if abs(abs(factor) - 1.0) < 1e-9:
        return float("inf")
    with np.errstate(divide="ignore"):
        return float(-1.0 / np.log(abs(factor))) + 0.0
