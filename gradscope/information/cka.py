"""Centred kernel alignment: how alike two layers tell the same samples apart."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from gradscope.errors import InvalidValueError
from gradscope.information.arrays import Array, centred, flat, pair, precision, shrunk, whole
from gradscope.information.estimate import Estimate, interval, joined

NAME = "cka"
GROUPS = 10


def cka(x: ArrayLike, y: ArrayLike, *, debiased: bool = True, batch: int | None = None) -> Estimate:
    """Return the linear CKA of two sets of features of the same samples: 1 where one is a rotation of the other.

    With K = X X^T and L = Y Y^T::

        CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))

    The plain value is biased upwards by about p/(n + p) for p features: 0.67 for independent Gaussians with n = 256
    and p = 512. The debiased one takes the unbiased HSIC, and may be slightly negative. Scaling and rotation leave it
    as it is, a general linear map does not.

    Args:
        x: Shape (samples, features).
        y: Shape (samples, features).
        debiased: Take the unbiased HSIC.
        batch: Average the unbiased HSIC over batches of so many samples (in the order given), which needs no matrix of
            all of them; None is all at once.

    Returns:
        The value; its interval by a jackknife over ten groups of samples. NaN where a side is constant. It warns where
        it is not debiased and a side has more features than a fifth of the samples.

    Raises:
        InvalidTypeError: An array holds no numbers.
        InvalidValueError: An array is empty or not finite, their lengths differ, or there are fewer than 4 samples.

    Source: Kornblith et al. 2019; Song et al. 2012 (unbiased HSIC); Nguyen, Raghu and Kornblith 2021 (batches).

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(64, 5))
    >>> round(cka(x, -2.0 * x).value, 6)
    1.0
    """
    given = pair(x, y, least=4)
    even = [word for one, raw in zip(given, (x, y), strict=True) if (word := flat(one, precision(raw)))]
    first, second = (shrunk(one) for one in given)
    count = len(first)
    size = count if batch is None else whole("batch", batch, 4)
    if size > count:
        raise InvalidValueError(f"batch is at most the {count} samples, not {batch}")
    if batch is not None and not debiased:
        raise InvalidValueError("batches take the unbiased HSIC: debiased=False goes with batch=None")
    starts = range(0, count - size + 1, size)
    pieces = np.array([_products(first[s : s + size], second[s : s + size], debiased) for s in starts])
    value = _ratio(pieces.mean(axis=0))
    wide = max(first.shape[1], second.shape[1]) > count / 5
    return Estimate(
        value,
        *interval(value, _error(first, second, debiased, pieces), len(pieces) if len(pieces) > 1 else GROUPS),
        NAME,
        len(pieces) * size,
        {"debiased": str(debiased).lower(), "batch": size},
        unit="1",
        warning=joined(
            "biased upwards: a side has more features than a fifth of the samples" if wide and not debiased else "",
            f"a side is {even[0]}" if even else "",
            "too few samples: the unbiased HSIC of a side with itself is not positive"
            if math.isnan(value) and not even
            else "",
        ),
    )


def hsic(k: Array, other: Array) -> float:
    """Return the unbiased HSIC of two Gram matrices of at least 4 samples; their diagonals do not count."""
    count = len(k)
    sums, other_sums = k.sum(axis=1) - np.diagonal(k), other.sum(axis=1) - np.diagonal(other)
    product = float(np.vdot(k, other)) - float(np.vdot(np.diagonal(k), np.diagonal(other)))
    total = float(sums.sum()) * float(other_sums.sum()) / ((count - 1) * (count - 2))
    cross = 2.0 * float(sums @ other_sums) / (count - 2)
    return (product + total - cross) / (count * (count - 3))


def cka_of_grams(k: Array, other: Array) -> float:
    """Return the debiased CKA of two Gram matrices, which several estimators can share."""
    return _ratio(np.array([hsic(k, other), hsic(k, k), hsic(other, other)]))


def _products(x: Array, y: Array, debiased: bool) -> tuple[float, float, float]:
    """Return HSIC of x with y, x with x and y with y."""
    if debiased:
        k, other = x @ x.T, y @ y.T
        return hsic(k, other), hsic(k, k), hsic(other, other)
    return tuple(float(np.linalg.norm(one.T @ two) ** 2) for one, two in ((x, y), (x, x), (y, y)))  # type: ignore[return-value]


def _ratio(products: Array) -> float:
    cross, own, other = (float(one) for one in products)
    return cross / math.sqrt(own * other) if own > 0.0 and other > 0.0 else math.nan


def _error(x: Array, y: Array, debiased: bool, pieces: Array) -> float:
    """Return the standard error by leaving out a group at a time: a batch, or a tenth of the samples."""
    if len(pieces) > 1:
        values = [_ratio(np.delete(pieces, one, axis=0).mean(axis=0)) for one in range(len(pieces))]
    elif len(x) < 4 * GROUPS:
        return math.nan
    else:
        kept = [np.arange(len(x)) % GROUPS != group for group in range(GROUPS)]
        values = [_ratio(np.array(_products(centred(x[one]), centred(y[one]), debiased))) for one in kept]
    count = len(values)
    return math.sqrt((count - 1) * float(np.var(values)))
