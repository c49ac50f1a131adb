"""Bounds on the information that a noisy layer keeps, from distances between its samples."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import pdist, squareform

from gradscope.information.arrays import Array, labels, positive, samples
from gradscope.information.estimate import Estimate, joined

NAME = "kde_bounds"
SHUFFLES = 8


def kde_bounds(t: ArrayLike, y: ArrayLike | None = None, *, noise_var: float) -> Estimate:
    """Bound I(X;T + noise), or I(T + noise;Y), for Gaussian noise of a declared variance.

    The noise makes the information of a deterministic layer finite, and it sets the answer: it must be declared. With
    d_ij the distance of samples i and j, and n samples::

        I <= -1/n sum_i ln 1/n sum_j exp(-d_ij^2 / (2 noise_var))         Kullback-Leibler distances
        I >= -1/n sum_i ln 1/n sum_j exp(-d_ij^2 / (8 noise_var))         Bhattacharyya distances

    With labels, I(T;Y) = H(T) - H(T|Y), and the bounds are those of both terms: its lower bound is that of H(T) less
    the upper one of H(T|Y), and the other way round; the noise's own entropy cancels. None is above ln n, which is why
    it warns close to it. Where the noise is small for the distances between samples, every sample is alone and labels
    that have nothing to do with t seem told: `chance`, the value for shuffled labels, says how much of it that is.

    Args:
        t: Shape (samples, features); every sample is one component of the mixture.
        y: Labels, one for each sample.
        noise_var: Variance of the noise, per feature.

    Returns:
        The bounds in nats as `low` and `high`; `value` is the upper one without labels, and with them the difference
        of the two upper bounds, which most papers plot.

    Raises:
        InvalidTypeError: t holds no numbers.
        InvalidValueError: t is empty or not finite, the noise is not positive, or y has another length.

    Source: Kolchinsky and Tracey 2017; Saxe et al. 2018.

    >>> kde_bounds([[-1.0], [1.0]], noise_var=1.0).in_bits().high  # the two points of a binary signal
    0.8168...
    """
    values = samples("t", t)
    variance = positive("noise_var", noise_var)
    squared = squareform(pdist(values, "sqeuclidean"))
    classes = None if y is None else labels("y", y, len(values))
    return kde_from_distances(squared, classes, variance)


def kde_from_distances(squared: Array, classes: NDArray[np.intp] | None, noise_var: float) -> Estimate:
    """Return the bounds from squared distances, which several estimators can share."""
    count = len(squared)
    kernels = [np.exp(squared / (-scale * noise_var)) for scale in (2.0, 8.0)]
    upper, lower = (_entropy(one) for one in kernels)
    settings: dict[str, float | int | str] = {"noise_var": noise_var}
    near = "close to ln n, the most that so many samples can show" if lower > 0.9 * math.log(count) else ""
    if classes is None:
        return Estimate(upper, lower, upper, NAME, count, settings, "both", warning=near)
    sizes = np.bincount(classes)
    shares = sizes[sizes > 0] / count
    most = float(-(shares * np.log(shares)).sum())
    inner = [_within(one, classes) for one in kernels]
    low, high = max(0.0, lower - inner[0]), max(0.0, upper - inner[1])
    random = np.random.default_rng(0)
    shuffled = [upper - _within(kernels[0], random.permutation(classes)) for _ in range(SHUFFLES)]
    chance = min(max(0.0, float(np.mean(shuffled))), most)
    return Estimate(
        min(max(0.0, upper - inner[0]), most),
        low,
        min(high, most),
        NAME,
        count,
        settings | {"chance": chance},
        "both",
        warning=joined(
            near,
            f"shuffled labels give {chance:.2g} nats too: few samples for so little noise"
            if chance > 0.1 * most
            else "",
            "a label with one sample only" if 1 in sizes else "",
        ),
    )


def _entropy(kernel: Array) -> float:
    """Return the entropy of the mixture above that of its components."""
    # Every sample is near itself: no sum is below 1.
    return max(0.0, float(math.log(len(kernel)) - np.log(kernel.sum(axis=1)).mean()))


def _within(kernel: Array, classes: NDArray[np.intp]) -> float:
    """Return the mean entropy within classes, each above that of its components."""
    sizes = np.bincount(classes)
    sums = (kernel @ np.eye(len(sizes))[classes])[np.arange(len(kernel)), classes]
    return max(0.0, float((np.log(sizes[classes]) - np.log(sums)).mean()))
