"""The depth scale of mean-field theory over the weight variance."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from gradscope.errors import GradscopeError
from gradscope.theory import critical, mean_field

SAMPLES = 25
POINTS = 401


def depth_scale_frame(activation: str, bias_var: float, low: float, high: float) -> pd.DataFrame:
    """Return xi_c for weight variances from ``low`` to ``high``, at the given bias variance.

    Its inverse is smooth and goes through zero at the edge of chaos, where xi_c is infinite: that is computed at some
    places and interpolated.

    Returns:
        Columns weight_var and xi_c (layers); NaN where there is no fixed point.
    """
    return _frame(activation, bias_var, low, high).copy()


@lru_cache(maxsize=64)
def _frame(activation: str, bias_var: float, low: float, high: float) -> pd.DataFrame:
    samples = np.linspace(max(low, 1e-6), high, SAMPLES)
    edge = edge_of_chaos(activation, bias_var)
    inverse = np.array([_inverse(activation, one, bias_var) for one in samples])
    variances = np.linspace(samples[0], high, POINTS)
    if low < edge < high:
        place = int(np.searchsorted(samples, edge))
        samples, inverse = np.insert(samples, place, edge), np.insert(inverse, place, 0.0)
        variances = np.union1d(variances, [edge])
    smooth = np.full(len(variances), np.nan)
    # At the edge the inverse turns from falling to rising at an angle.
    for ours, drawn in ((samples <= edge, variances <= edge), (samples >= edge, variances >= edge)):
        smooth[drawn] = _through(samples[ours], inverse[ours], variances[drawn])
    if math.isnan(edge):
        smooth = _through(samples, inverse, variances)
    with np.errstate(divide="ignore"):
        return pd.DataFrame({"weight_var": variances, "xi_c": 1.0 / smooth})


def _through(x: NDArray[np.float64], y: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a smooth curve through the points that are numbers, NaN beyond them."""
    known = np.isfinite(y)
    if known.sum() < 2:
        return np.full(len(at), np.nan)
    return np.asarray(PchipInterpolator(x[known], y[known], extrapolate=False)(at))


def edge_of_chaos(activation: str, bias_var: float) -> float:
    """Return the weight variance at which chi is 1; NaN where there is none."""
    try:
        return critical(activation, bias_var)
    except GradscopeError:
        return float("nan")


def _inverse(activation: str, weight_var: float, bias_var: float) -> float:
    scale = mean_field(activation, weight_var, bias_var).xi_c
    # Without a fixed point xi_c is NaN, and stays one; a negative one would be no scale at all.
    return 1.0 / scale if scale > 0 else float("nan")
