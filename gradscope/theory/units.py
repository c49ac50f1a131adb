"""The law of units that are not normally distributed, as of a sum behind which an activation comes: a sample of it.

Two columns, for two inputs of the network; a row is a unit. What theory needs of them are means, which a sample of
8192 with exact first and second moments gives to about a percent.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
ROWS = 8192


@lru_cache(maxsize=128)
def standard(draw: int) -> Array:
    """Return independent standard normal pairs, the same for the same `draw`, with exact means and covariance."""
    pairs = np.random.default_rng(draw).standard_normal((ROWS // 2, 2))
    pairs = np.concatenate([pairs, -pairs])
    root = np.linalg.cholesky(pairs.T @ pairs / ROWS)
    exact: Array = np.linalg.solve(root, pairs.T).T
    return exact


def normal_units(c: float, draw: int) -> Array:
    """Return normal pairs of variance 1 and correlation `c`; 0 where that is not known."""
    known = float(np.clip(np.nan_to_num(c), -1.0, 1.0))
    first, second = standard(draw).T
    return np.stack([first, known * first + np.sqrt(1.0 - known**2) * second], axis=1)


def apart(units: Array, others: Array) -> Array:
    """Return `units` made exactly uncorrelated to `others`, as fresh weights make them, with mean and size kept."""
    base, _ = np.linalg.qr(np.column_stack([np.ones(ROWS), others]))
    mean = units.mean(axis=0)
    rest = units - mean
    rest = rest - base @ (base.T @ rest)
    before, after = np.sqrt(np.mean((units - mean) ** 2, axis=0)), np.sqrt(np.mean(rest**2, axis=0))
    scaled: Array = mean + rest * np.where(after > 0.0, before / np.where(after > 0.0, after, 1.0), 1.0)
    return scaled


def moved(units: Array, mean: float, square: float) -> Array:
    """Return units of mean square 1 shifted and stretched to the ratio of `mean` and root of the mean `square`."""
    if not square > 0.0:
        return units
    part = min(mean**2 / square, 1.0)
    own = units.mean()
    spread = np.sqrt(np.mean((units - own) ** 2))
    centred = (units - own) / spread if spread > 0.0 else np.zeros_like(units)
    return unit_scale(np.copysign(np.sqrt(part), mean) + np.sqrt(1.0 - part) * centred)[0]


def unit_scale(values: Array) -> tuple[Array, float]:
    """Return values with a mean square of 1, and what it was."""
    square = float(np.mean(values**2))
    return (values / np.sqrt(square) if square > 0.0 else values), square
