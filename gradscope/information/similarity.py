"""How alike all layers tell the same samples apart: debiased linear CKA of every pair."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from gradscope.errors import InvalidValueError
from gradscope.information.arrays import Array, by_name, flat, precision, samples, whole
from gradscope.information.estimate import interval
from gradscope.information.panel import ROWS, gram_of

GROUPS = 10
COLUMNS = ("layer", "other", "value", "low", "high", "n", "warning")


def similarity(layers: Mapping[str, ArrayLike], *, rows: int = ROWS, seed: int = 0) -> pd.DataFrame:
    """Return the debiased linear CKA of every pair of layers: 1 where one is a rotation of the other.

    Every layer has one Gram matrix, of the same sampled rows, which all its pairs share; as U-centred matrices
    (Székely and Rizzo 2014) their products are the unbiased HSIC, so that all pairs are one product of matrices.

    Args:
        layers: Activations by name of the layer, each of shape (samples, ...).
        rows: How many rows are looked at; of more a random choice.
        seed: Of that choice.

    Returns:
        One row per ordered pair, a layer with itself included: layer, other, value, low, high (95 %, by a jackknife
        over ten groups of samples; absent below 40 rows), n and warning. NaN where a layer is the same for every
        sample; a warning where it differs by no more than rounding.

    Raises:
        InvalidTypeError: An array holds no numbers, or layers are not given by name.
        InvalidValueError: No layer is given, or an array is empty or not finite, has fewer than 4 samples, or another
            number of samples than the first.

    Source: Kornblith et al. 2019; Song et al. 2012.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(64, 5))
    >>> similarity({"a": x, "b": -2.0 * x})["value"].round(6).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    most = whole("rows", rows, 4)
    named = {name: samples(f"layer {name!r}", one, 4) for name, one in by_name(layers).items()}
    count = _count(named)
    places = np.sort(np.random.default_rng(seed).permutation(count)[:most])
    chosen = {name: one[places] for name, one in named.items()}
    grams = [gram_of(one) for one in chosen.values()]
    values, errors = cka_matrix(grams)
    found = [flat(one, precision(layers[name])) for name, one in chosen.items()]
    warnings = [f"a side is {one}" if one else "" for one in found]
    names = list(named)
    return pd.DataFrame(
        [
            (
                name,
                other,
                float(values[row, column]),
                *interval(float(values[row, column]), float(errors[row, column]), GROUPS),
                len(places),
                warnings[row] or warnings[column],
            )
            for row, name in enumerate(names)
            for column, other in enumerate(names)
        ],
        columns=pd.Index(COLUMNS),
    )


def cka_matrix(grams: list[Array]) -> tuple[Array, Array]:
    """Return the debiased CKA of all pairs of Gram matrices, and its standard errors by the jackknife."""
    count = len(grams[0])
    values = _cka(grams)
    if count < 4 * GROUPS:
        return values, np.full(values.shape, math.nan)
    kept = [np.flatnonzero(np.arange(count) % GROUPS != group) for group in range(GROUPS)]
    without = np.stack([_cka([one[np.ix_(places, places)] for one in grams]) for places in kept])
    return values, np.sqrt((GROUPS - 1) * without.var(axis=0))


def _cka(grams: list[Array]) -> Array:
    flat = np.stack([_u_centred(one).ravel() for one in grams])
    products = flat @ flat.T
    own = np.diagonal(products)
    roots = np.sqrt(np.where(own > 0.0, own, np.nan))
    return np.asarray(products / np.outer(roots, roots))


def _u_centred(gram: Array) -> Array:
    """Return a Gram matrix U-centred: rows without the diagonal sum to zero, so that samples' own terms drop out."""
    count = len(gram)
    off = gram.copy()
    np.fill_diagonal(off, 0.0)
    sums = off.sum(axis=1)
    off += float(sums.sum()) / ((count - 1) * (count - 2)) - (sums[:, None] + sums[None, :]) / (count - 2)
    np.fill_diagonal(off, 0.0)
    return off


def _count(named: Mapping[str, Array]) -> int:
    if not named:
        raise InvalidValueError("layers is empty")
    first, count = next((name, len(one)) for name, one in named.items())
    for name, one in named.items():
        if len(one) != count:
            raise InvalidValueError(f"layer {name!r} has {len(one)} samples and layer {first!r} has {count}")
    return count
