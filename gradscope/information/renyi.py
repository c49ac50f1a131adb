"""Matrix-based Renyi entropy: information of kernels, not of distributions."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import eigvalsh
from scipy.spatial.distance import pdist, squareform

from gradscope.errors import InvalidValueError
from gradscope.information.arrays import Array, pair, positive
from gradscope.information.estimate import Estimate, joined

NAME = "renyi"


def renyi(x: ArrayLike, y: ArrayLike, *, sigma: float, sigma_y: float | None = None, alpha: float = 1.01) -> Estimate:
    """Estimate the matrix-based Renyi information of two samples with Gaussian kernels of a declared width.

    With A and B the kernel matrices over their traces, and lambda the eigenvalues::

        S_alpha(A) = log2(sum lambda^alpha) / (1 - alpha)          I = S(A) + S(B) - S(A o B / tr)

    It is not Shannon's information: **the width sets the answer**. For Gaussians with rho = 0.9 (0.83 nats) and
    n = 400 it runs from 1.21 to 0.21 nats as sigma goes from 0.1 to 2.

    Args:
        x: Shape (samples, features).
        y: Shape (samples, features).
        sigma: Width of the kernel exp(-d^2 / (2 sigma^2)).
        sigma_y: That of y where it is another.
        alpha: Order; near 1 it resembles Shannon's, 1 itself is von Neumann's entropy.

    Returns:
        The estimate in nats; no interval is known, so its ends are NaN. It warns where a kernel is so narrow or so
        wide that all samples look different, or alike.

    Raises:
        InvalidTypeError: An array holds no numbers.
        InvalidValueError: An array is empty or not finite, their lengths differ, or sigma or alpha are not positive.

    Source: Sanchez Giraldo, Rao and Principe 2015; Yu et al. 2019.
    """
    first, second = pair(x, y)
    count = len(first)
    widths = positive("sigma", sigma), positive("sigma_y", sigma if sigma_y is None else sigma_y)
    kernels = [kernel(one, width) for one, width in zip((first, second), widths, strict=True)]
    entropies = [matrix_entropy(one, alpha) for one in (*kernels, kernels[0] * kernels[1])]
    value = entropies[0] + entropies[1] - entropies[2]
    ends = [f"{name}: {text}" for name, one in zip("xy", entropies[:2], strict=True) if (text := _extreme(one, count))]
    return Estimate(
        value,
        math.nan,
        math.nan,
        NAME,
        count,
        {"sigma": widths[0], "sigma_y": widths[1], "alpha": alpha},
        warning=joined(*ends),
    )


def kernel(values: Array, sigma: float) -> Array:
    """Return the Gaussian kernel matrix."""
    return np.asarray(np.exp(squareform(pdist(values, "sqeuclidean")) / (-2.0 * sigma**2)))


def matrix_entropy(matrix: ArrayLike, alpha: float = 1.01) -> float:
    """Return the entropy of order alpha of a kernel matrix, in nats: from 0 for all alike to ln n for all different.

    >>> round(matrix_entropy(np.eye(128)) / math.log(2), 6), round(matrix_entropy(np.ones((4, 4))), 6)
    (7.0, 0.0)

    Raises:
        InvalidValueError: It is not square, has no trace, or alpha is not positive.
    """
    given = np.asarray(matrix, np.float64)
    trace = float(np.trace(given)) if given.ndim == 2 and given.shape[0] == given.shape[1] else 0.0
    if not trace > 0.0:
        raise InvalidValueError(f"a kernel matrix is square and has a positive trace; given is one of {given.shape}")
    shares = np.clip(eigvalsh(given) / trace, 0.0, None)
    shares = shares[shares > 0.0]
    if positive("alpha", alpha) == 1.0:
        return float(-(shares * np.log(shares)).sum())
    return float(np.log((shares**alpha).sum()) / (1.0 - alpha))


def _extreme(entropy: float, count: int) -> str:
    most = math.log(count)
    if entropy > 0.95 * most:
        return "the kernel is so narrow that all samples look different"
    return "the kernel is so wide that all samples look alike" if entropy < 0.02 * most else ""
