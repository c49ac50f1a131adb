"""The decay: by which factor per layer the gradient's norm changes towards the input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

LEAST = 3
"""Increments below which no interval is given."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Decay:
    """Factor per layer of the norm of the output gradient, going towards the input.

    Attributes:
        rate: exp of the mean increment of ln|dL/dz| from a layer to the one before it: below 1 the signal
            shrinks towards the input, 0 when it arrives as an exact zero.
        low: Lower end of the 95 % interval of `rate`; NaN under 3 increments, or where a norm is zero.
        high: Its upper end.
        decades: log10 of |dL/dz_1| / |dL/dz_n|, the total over the layers used; -inf for an exact zero.
        layers: How many layers were used.
    """

    rate: float
    low: float
    high: float
    decades: float
    layers: int

    def _repr_html_(self) -> str:
        from gradscope.runs import html  # which knows this class

        return html.of_decay(self)


def decay(trunk: Sequence[int], profile: pd.Series[float]) -> Decay:
    """Estimate the decay along layers of the trunk.

    Log-norms along depth are a random walk, so the interval is that of the mean *increment*: with
    d_i = ln|dL/dz_l| - ln|dL/dz_(l+1)| for n increments, mean m and standard deviation s::

        rate = exp(m)        low, high = exp(m -+ t(0.975, n-1) s / sqrt(n))

    The usual regression of the levels on depth covers the true slope in 23 % instead of 95 % of the cases.
    Where a layer between two others has no value, the increment spans k layers and has k times the variance:
    it counts as d_i / k with weight k, which for k = 1 everywhere is the formula above.

    Args:
        trunk: Depths in order, first layer first.
        profile: Norms over depth; depths that are missing are spanned.

    Returns:
        The decay; all NaN where a norm is NaN or infinite, or where the first and last are both zero.
    """
    found = profile.index.get_indexer(pd.Index(trunk, dtype=np.int64))
    places = np.flatnonzero(found >= 0)
    norms = profile.to_numpy(np.float64)[found[places]]
    used = len(norms)
    if used < 2 or not np.isfinite(norms).all() or norms[0] == norms[-1] == 0.0:
        return Decay(math.nan, math.nan, math.nan, math.nan, used)
    with np.errstate(divide="ignore"):
        logs = np.log(norms)
    total = float(logs[0] - logs[-1])
    spans = np.diff(places)
    mean = total / float(spans.sum())
    half = _half_width(logs[:-1] - logs[1:], spans, mean) if np.isfinite(logs).all() else math.nan
    return Decay(
        rate=_exp(mean),
        low=_exp(mean - half),
        high=_exp(mean + half),
        decades=total / math.log(10.0),
        layers=used,
    )


def _exp(exponent: float) -> float:
    """Return e to the exponent; infinity where that leaves float64."""
    with np.errstate(over="ignore"):
        return float(np.exp(exponent))


def _half_width(increments: NDArray[np.float64], spans: NDArray[np.intp], mean: float) -> float:
    """Return half the t-interval of the mean increment per layer; NaN under 3 increments."""
    count = len(increments)
    if count < LEAST:
        return math.nan
    variance = float(np.sum((increments - mean * spans) ** 2 / spans)) / (count - 1)
    quantile = float(stats.t.ppf(0.5 + CONFIDENCE / 2.0, count - 1))
    return quantile * math.sqrt(variance / float(spans.sum()))
