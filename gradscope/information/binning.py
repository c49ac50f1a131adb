"""Mutual information of binned values: a property of the bins as much as of the layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from gradscope.errors import InvalidValueError
from gradscope.information.arrays import Array, labels, samples, whole
from gradscope.information.estimate import Estimate, interval, joined

NAME = "binning"
SWEEP = (10, 30, 100, 300, 1000)


def binning(
    t: ArrayLike, y: ArrayLike | None = None, *, bins: int = 30, bounds: tuple[float, float] | None = None
) -> Estimate:
    """Estimate I(X;T), or I(T;Y) where labels are given, from bins of equal width.

    Every entry of t falls into one of `bins` intervals; a sample's state is the tuple of its intervals. With p the
    frequencies of the states::

        I(X;T) = H(bin T) = -sum p ln p                    each sample an input of its own, T a function of it
        I(T;Y) = H(bin T) - H(bin T | Y)

    **The bins are the result**: for a deterministic network and continuous inputs I(X;T) is infinite; every finite
    number is a property of the bins. It saturates at ln n (and at H(Y)) as they get finer; see `binning_sweep`. The
    plug-in value is biased upwards by about (A-1)(B-1) / 2n for A and B occupied states, given as `bias`.

    Args:
        t: Shape (samples, features).
        y: Labels, one for each sample.
        bins: Intervals per feature.
        bounds: Their ends, such as (-1, 1) for tanh; the least and greatest entry of t where None. What lies outside
            counts as the outermost interval.

    Returns:
        The estimate in nats, with the interval of the plug-in value by the delta method: 1.96 standard deviations of
        the information density over sqrt(n), which know nothing of the bias. It warns where the states are too many
        for the sample, and, without labels, where samples that differ share a state.

    Raises:
        InvalidTypeError: t holds no numbers.
        InvalidValueError: t is empty or not finite, the bins are fewer than 2, or y has another length.

    Source: Shwartz-Ziv and Tishby 2017; Saxe et al. 2018; Miller 1955 for the bias.

    >>> binning([[0.0], [0.0], [1.0], [1.0]], [0, 0, 1, 1], bins=2).in_bits().value
    1.0
    """
    values = samples("t", t)
    count, low_high = len(values), _bounds(values, bounds)
    states = _states(values, whole("bins", bins, 2), low_high)
    settings: dict[str, float | int | str] = {"bins": bins, "lowest": low_high[0], "highest": low_high[1]}
    if y is None:
        density = -np.log(_frequencies(states))
        kinds, bias = len(np.unique(states)), math.nan
        crowded = kinds > count / 5
        merged = len(np.unique(_rows(values + 0.0))) > kinds  # -0.0 is 0.0
    else:
        classes = labels("y", y, count)
        joint = np.unique(np.stack([states, classes]), axis=1, return_inverse=True)[1].reshape(-1)
        density = np.log(_frequencies(joint)) - np.log(_frequencies(states)) - np.log(_frequencies(classes))
        kinds, groups = len(np.unique(states)), len(np.unique(classes))
        bias = (kinds - 1) * (groups - 1) / (2 * count)
        settings |= {"bias": bias}
        crowded, merged = bias > 0.1 * math.log(max(groups, 2)), False
    value = max(0.0, float(density.mean()))
    settings |= {"states": kinds}
    return Estimate(
        value,
        *interval(value, float(density.std()) / math.sqrt(count)),
        NAME,
        count,
        settings,
        warning=joined(
            f"{kinds} states for {count} samples: the value shows the bins and the sample, not the layer"
            if crowded
            else "",
            "without noise the information about the input is that of the bins: finer ones give more" if merged else "",
        ),
    )


def binning_sweep(
    t: ArrayLike,
    y: ArrayLike | None = None,
    *,
    bins: Sequence[int] = SWEEP,
    bounds: tuple[float, float] | None = None,
) -> pd.DataFrame:
    """Return `binning` for several numbers of bins, which shows the bins' share in the result.

    Returns:
        One row per number of bins: bins, value, low, high, states, warning; in nats.
    """
    found = [binning(t, y, bins=one, bounds=bounds) for one in bins]
    return pd.DataFrame(
        {
            "bins": list(bins),
            "value": [one.value for one in found],
            "low": [one.low for one in found],
            "high": [one.high for one in found],
            "states": [one.parameters["states"] for one in found],
            "warning": [one.warning for one in found],
        }
    )


def _bounds(values: Array, given: tuple[float, float] | None) -> tuple[float, float]:
    if given is None:
        return float(values.min()), float(values.max())
    try:
        low, high = (float(one) for one in given)
    except (TypeError, ValueError):
        low = high = math.nan
    if not -math.inf < low < high < math.inf:
        raise InvalidValueError(f"bounds are a pair (lowest, highest) of numbers in order, not {given!r}")
    return low, high


def _states(values: Array, bins: int, bounds: tuple[float, float]) -> NDArray[np.intp]:
    """Number the tuples of intervals that occur."""
    low, high = bounds
    if low == high:
        return np.zeros(len(values), np.intp)
    kind = np.int32 if bins <= np.iinfo(np.int32).max else np.int64
    # First a share of the range: its inverse is more than a float where the range is tiny.
    places = np.clip((values - low) / (high - low) * bins, 0, bins - 1).astype(kind)
    return np.asarray(np.unique(_rows(places), return_inverse=True)[1], np.intp).reshape(-1)


def _rows(values: NDArray[Any]) -> NDArray[np.void]:
    """Return rows as raw bytes, which compare much faster than by np.unique along an axis."""
    return np.ascontiguousarray(values).view(np.dtype((np.void, values.dtype.itemsize * values.shape[1])))


def _frequencies(states: NDArray[np.intp]) -> Array:
    """Return for every sample the frequency of its state."""
    counts = np.bincount(states)
    return np.asarray(counts[states] / len(states), np.float64)
