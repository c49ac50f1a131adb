"""One network in the information plane, by several settings of the estimators: their share in the picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import pdist, squareform

from gradscope.errors import InvalidValueError
from gradscope.information.arrays import Array, by_name, labels, positive, samples, whole
from gradscope.information.binning import binning
from gradscope.information.estimate import NATS_PER_BIT, Estimate, joined
from gradscope.information.kde import kde_from_distances

ROWS = 1024
_NUMBERS = ("x", "x_low", "x_high", "y", "y_low", "y_high", "x_most", "y_most")
COLUMNS = ("depth", "layer", "setting", *_NUMBERS, "n", "unit", "warning")


def planes(
    layers: Mapping[str, ArrayLike],
    y: ArrayLike,
    *,
    bins: Sequence[int] = (10, 30, 100),
    bounds: tuple[float, float] | None = None,
    noise_var: float | None = 0.1,
    rows: int = ROWS,
    seed: int = 0,
    unit: str = "nats",
) -> pd.DataFrame:
    """Estimate I(X;T) and I(T;Y) of every layer with each number of bins, and by bounds for a declared noise.

    For layers that are functions of distinct inputs, I(X;T) is ln n whatever the weights, and so is any change of it a
    change of the estimator's: several settings side by side show how much of a picture is theirs.

    Args:
        layers: Activations by name of the layer, from the input upwards, each of shape (samples, ...).
        y: Labels, one for each sample.
        bins: Numbers of intervals per feature.
        bounds: Ends of all intervals together, such as (-1, 1) for tanh; least and greatest entry of each layer where
            None.
        noise_var: Variance of the noise that the bounds are for; None leaves them out.
        rows: How many samples, a random choice, the bounds look at; they cannot exceed its logarithm.
        seed: Of that choice.
        unit: ``nats`` or ``bits``.

    Returns:
        One row per layer and setting: depth (1 for the first), layer, setting (text), x and y with low and high (see
        `binning` and `kde_bounds`), the most that they can be (x_most = ln n, y_most = H(Y) of the samples looked at),
        n, unit and warning.

    Raises:
        InvalidTypeError: An array holds no numbers, or layers are not given by name.
        InvalidValueError: An array is empty or not finite, its length is not that of the labels, or a setting is none.

    Source: Shwartz-Ziv and Tishby 2017; Saxe et al. 2018; Kolchinsky and Tracey 2017.
    """
    if unit not in ("nats", "bits"):
        raise InvalidValueError(f"unit is nats or bits, not {unit!r}")
    variance = None if noise_var is None else positive("noise_var", noise_var)
    most = whole("rows", rows, 4)
    found: list[dict[str, object]] = []
    for depth, (name, given) in enumerate(by_name(layers).items(), start=1):
        values = samples(f"layer {name!r}", given, 4)
        classes = labels("y", y, len(values))
        points = _binned(values, classes, bins, bounds)
        if variance is not None:
            chosen = np.sort(np.random.default_rng(seed).permutation(len(values))[:most])
            points.append(_bounded(values[chosen], classes[chosen], variance))
        found += [{"depth": depth, "layer": name, "unit": unit} | _row(one, unit == "bits") for one in points]
    return pd.DataFrame(found, columns=pd.Index(COLUMNS))


@dataclass(frozen=True)
class _Point:
    setting: str
    x: Estimate
    y: Estimate
    entropy: float


def _binned(
    values: Array, classes: NDArray[np.intp], bins: Sequence[int], bounds: tuple[float, float] | None
) -> list[_Point]:
    found = []
    for one in bins:
        x, y = (binning(values, known, bins=one, bounds=bounds) for known in (None, classes))
        found.append(_Point(f"{one} bins", x, y, _entropy(classes)))
    return found


def _bounded(values: Array, classes: NDArray[np.intp], noise_var: float) -> _Point:
    squared = squareform(pdist(values, "sqeuclidean"))
    x, y = (kde_from_distances(squared, one, noise_var) for one in (None, classes))
    return _Point(f"noise of variance {noise_var:g}", x, y, _entropy(classes))


def _entropy(classes: NDArray[np.intp]) -> float:
    shares = np.bincount(classes) / len(classes)
    return float(-(shares * np.log(shares)).sum())


def _row(point: _Point, bits: bool) -> dict[str, object]:
    x, y = (one.in_bits() if bits else one for one in (point.x, point.y))
    scale = 1.0 / NATS_PER_BIT if bits else 1.0
    return {
        "setting": point.setting,
        "x": x.value,
        "x_low": x.low,
        "x_high": x.high,
        "y": y.value,
        "y_low": y.low,
        "y_high": y.high,
        "x_most": scale * math.log(x.n),
        "y_most": scale * point.entropy,
        "n": x.n,
        "warning": joined(*dict.fromkeys((x.warning, y.warning))),
    }
