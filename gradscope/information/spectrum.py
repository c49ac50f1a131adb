"""How many directions a layer uses: effective rank, participation ratio, principal components for a share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import eigh, eigvalsh

from gradscope.errors import InvalidValueError
from gradscope.information.arrays import Array, flat, precision, samples, shrunk
from gradscope.information.estimate import Estimate, interval, joined

ENOUGH = 5
"""Samples per feature below which the effective rank is biased downwards."""
ROUNDING = 1e-14


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of the covariance of centred features, in units of the square of their largest entry.

    Attributes:
        values: Not negative, ascending; as many as the smaller of samples and features.
        scores: (u_k . x_i)^2 for each sample i and eigenvector k; None where they were not asked for.
        n: Samples.
        features: Features.
        flat: Says where the samples differ by no more than rounding.
    """

    values: Array
    scores: Array | None
    n: int
    features: int
    flat: str = ""


def spectrum_of(x: ArrayLike, *, scores: bool = True, eps: float | None = None) -> Spectrum:
    """Return the spectrum of an array (samples, features), from the Gram matrix of the smaller side in float64.

    Args:
        x: Shape (samples, features).
        scores: Keep what each sample has to do with each eigenvector.
        eps: Relative precision that the numbers once had; that of the array as given where None.

    Raises:
        InvalidTypeError: It holds no numbers.
        InvalidValueError: It is empty or not finite.
    """
    values = samples("x", x)
    even = flat(values, precision(x) if eps is None else eps)
    given = shrunk(values)
    count, features = given.shape
    wide = features > count
    matrix = (given @ given.T if wide else given.T @ given) / count
    if not scores:
        return Spectrum(np.clip(eigvalsh(matrix), 0.0, None), None, count, features, even)
    found, vectors = eigh(matrix)
    found = np.clip(found, 0.0, None)
    projected = count * found * vectors**2 if wide else (given @ vectors) ** 2
    return Spectrum(found, projected, count, features, even)


def effective_rank(x: ArrayLike | Spectrum) -> Estimate:
    """Return the effective rank: the exponential of the entropy of the singular values, of centred features.

    With s_k the singular values and p_k = s_k / sum s::

        erank = exp(-sum_k p_k ln p_k)

    1 for one direction, up to the number of features for all alike; 0 where nothing varies. Centred, for otherwise a
    layer that is nearly constant reads 1. Biased downwards below some five samples per feature.

    Args:
        x: Shape (samples, features), or its spectrum.

    Returns:
        The value; its interval by the infinitesimal jackknife over samples, which knows nothing of the bias: of 95 %
        nominally, it held the truth in 93, 83 and 53 of 100 samples with 100, 20 and 6 samples per feature.

    Raises:
        InvalidTypeError: It holds no numbers.
        InvalidValueError: It is empty or not finite.

    Source: Roy and Vetterli 2007.
    """
    return _estimate("effective_rank", x, _rank, _rank_slope)


def participation_ratio(x: ArrayLike | Spectrum) -> Estimate:
    """Return the participation ratio (sum lambda)^2 / sum lambda^2 of the covariance of centred features.

    1 for one direction, the number of features p for all alike; 0 where nothing varies. For white features it reads
    p / (1 + p/n) at n samples.

    Args:
        x: Shape (samples, features), or its spectrum.

    Returns:
        The value; its interval by the infinitesimal jackknife over samples, which knows nothing of the bias: of 95 %
        nominally, it held the truth in 93, 91 and 70 of 100 samples with 100, 20 and 6 samples per feature.

    Raises:
        InvalidTypeError: It holds no numbers.
        InvalidValueError: It is empty or not finite.

    Source: Gao et al. 2017.
    """
    return _estimate("participation_ratio", x, _ratio, _ratio_slope)


def pca_saturation(x: ArrayLike | Spectrum, *, share: float = 0.99) -> Estimate:
    """Return how many principal components hold a share of the variance, over the number of features.

    0 where nothing varies. A count, so no interval is given; it grows with the sample: white features (p = 100) read
    0.77 at n = 100 and 0.98 at n = 1000.

    Args:
        x: Shape (samples, features), or its spectrum.
        share: Of the variance.

    Raises:
        InvalidTypeError: It holds no numbers.
        InvalidValueError: It is empty or not finite, or the share is not between 0 and 1.

    Source: Shenk et al. 2019; Richter et al. 2021.
    """
    if not 0.0 < share <= 1.0:
        raise InvalidValueError(f"share is above 0 and at most 1, not {share!r}")
    found = x if isinstance(x, Spectrum) else spectrum_of(x, scores=False)
    total = float(found.values.sum())
    held = np.cumsum(found.values[::-1])
    needed = int(np.searchsorted(held, share * total * (1.0 - 1e-12)) + 1) if total > 0.0 else 0
    value = needed / found.features
    return Estimate(
        value, math.nan, math.nan, "pca_saturation", found.n, {"share": share}, unit="1", warning=_doubts(found)
    )


def _estimate(
    name: str,
    x: ArrayLike | Spectrum,
    function: Callable[[Array], float],
    slope: Callable[[Array, float], Array],
) -> Estimate:
    found = x if isinstance(x, Spectrum) else spectrum_of(x)
    value = function(found.values) if found.values.max(initial=0.0) > 0.0 else 0.0
    error = math.nan
    if found.scores is not None and value:
        # Each sample adds (u.x)^2 - lambda to an eigenvalue, to first order.
        shares = (found.scores - found.values) @ slope(found.values, value)
        error = float(shares.std()) / math.sqrt(found.n)
    return Estimate(value, *interval(value, error), name, found.n, unit="1", warning=_doubts(found))


def _doubts(found: Spectrum) -> str:
    return joined(
        f"{found.n} samples for {found.features} features: biased downwards"
        if found.n < ENOUGH * found.features
        else "",
        f"the features are {found.flat}" if found.flat else "",
    )


def _rank(values: Array) -> float:
    singular = np.sqrt(values[values > 0.0])
    shares = singular / singular.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _rank_slope(values: Array, rank: float) -> Array:
    """Return d erank / d lambda_k = erank * (-(ln p_k + H) / S) / (2 s_k); 0 for what is rounding."""
    real = values > ROUNDING * values.max()
    singular = np.sqrt(np.where(real, values, 1.0))
    total = float(np.sqrt(values[real]).sum())
    inner = -(np.log(singular / total) + math.log(rank)) / total
    return np.where(real, rank * inner / (2.0 * singular), 0.0)


def _ratio(values: Array) -> float:
    return float(values.sum()) ** 2 / float((values**2).sum())


def _ratio_slope(values: Array, ratio: float) -> Array:
    total, squares = float(values.sum()), float((values**2).sum())
    return 2.0 * total / squares - 2.0 * ratio * values / squares
