"""What each kind of factor takes from the gradient's norm or adds to it, in decades: the ledger, summed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

KINDS = ("weights", "paths", "pooling", "activation", "normalization", "unsplit")
"""In the order in which the gradient meets them, from a layer's output to that of the layer below."""


def decades(book: pd.DataFrame) -> pd.DataFrame:
    """Return what each kind of factor does between neighbours on the trunk, in decades (log10).

    Row l is the way from the output of the layer above, u, to that of l::

        weights        weight_gain_u
        paths          path_gain_u * join_gain_l       skips and branches that meet at the input of u or on the way
        pooling        pool_gain_l / join_gain_l       pooling, dropout, padding, concatenation
        activation     phi_gain_l
        normalization  norm_gain_l
        unsplit        activation_gain_l, where it could not be split: the three before are 0 there

    so that a row sums to log10 of |dL/dz_l| / |dL/dz_u|, and all rows to that of the whole trunk.

    Args:
        book: A ledger.

    Returns:
        Index `depth`: the trunk without its head; a column for each of ``KINDS``. NaN where a factor is undefined,
        -inf where it is exactly zero. Where normalization and activation function leave exactly nothing, what
        else lies between is undefined, and counts as no factor.
    """
    logs = {name: book[f"log10_{name}"].to_numpy(np.float64) for name in _LOGS}
    lower = {name: values[:-1] for name, values in logs.items()}
    upper = {name: values[1:] for name, values in logs.items()}
    activation, normalization, rest = (lower[name] for name in ("phi_gain", "norm_gain", "pool_gain"))
    with np.errstate(invalid="ignore"):
        is_nothing = np.isneginf(activation + normalization)
        is_split = ~np.isnan(activation + normalization + rest) | is_nothing
        join = np.where(is_split & ~is_nothing, lower["join_gain"], 0.0)
        found = {
            "weights": upper["weight_gain"],
            "paths": upper["path_gain"] + join,
            "pooling": np.where(is_nothing, 0.0, rest - join),
            "activation": activation,
            "normalization": normalization,
        }
    for kind in ("pooling", "activation", "normalization"):
        found[kind] = np.where(is_split, found[kind], 0.0)
    found["unsplit"] = np.where(is_split, 0.0, lower["activation_gain"])
    return pd.DataFrame(found, index=book.index[:-1], columns=pd.Index(KINDS))


_LOGS = ("weight_gain", "activation_gain", "path_gain", "norm_gain", "phi_gain", "pool_gain", "join_gain")


@dataclass(frozen=True)
class Totals:
    """What each kind of factor contributes to the gradient's way through the trunk, in decades.

    Below 0 where it shrinks the gradient, -inf where it takes it away, NaN where a factor is undefined.

    Attributes:
        weights: The weights.
        paths: Skips and branches.
        pooling: Pooling, dropout, padding, concatenation.
        activation: The derivative of activation functions.
        normalization: Normalizations between layers and their activation functions.
        unsplit: Activation, normalization and pooling together, where they were not recorded apart.
    """

    weights: float
    paths: float
    pooling: float
    activation: float
    normalization: float
    unsplit: float

    @property
    def whole(self) -> float:
        """The sum: log10 of |dL/dz| at the lowest layer by that at the highest."""
        return _sum([getattr(self, kind) for kind in KINDS])

    @property
    def largest(self) -> str:
        """The kind that does most of what is done: shrinking where the whole is below 0, growing where it is above.

        >>> Totals(weights=1.0, paths=0.0, pooling=0.0, activation=-3.0, normalization=0.0, unsplit=0.0).largest
        'activation'
        """
        sign = -1.0 if self.whole < 0.0 else 1.0
        known = [kind for kind in KINDS if not math.isnan(getattr(self, kind))]
        return max(known or KINDS, key=lambda kind: sign * float(getattr(self, kind)))

    def fraction(self, kind: str) -> float:
        """Return a kind's part of all that is done in the direction of the whole, from 0 to 1; 0 where it counteracts.

        Of a loss of 4 decades by activation functions and 1 by weights, of which skips give back 2, 80 % are the
        activation functions'. NaN where nothing is lost or gained, or a factor is zero, infinite or undefined.

        >>> Totals(weights=-1.0, paths=2.0, pooling=0.0, activation=-4.0, normalization=0.0, unsplit=0.0).fraction(
        ...     "activation"
        ... )
        0.8
        """
        sign = -1.0 if self.whole < 0.0 else 1.0
        done = {one: max(0.0, sign * float(getattr(self, one))) for one in KINDS}
        total = math.fsum(done.values())
        return done[kind] / total if math.isfinite(self.whole) and 0.0 < total < math.inf else math.nan


def totals(book: pd.DataFrame, depths: Sequence[int] | None = None) -> Totals:
    """Sum the decades of each kind of factor along the trunk.

    Args:
        book: A ledger.
        depths: Neighbouring depths of the trunk, ascending, from the output of the last of which to that of the
            first the way leads; None for the whole trunk, head included.
    """
    found = decades(book)
    chosen = found if depths is None else found.loc[list(depths[:-1])]
    return Totals(**{kind: _sum(chosen[kind].to_list()) for kind in KINDS})


def _sum(logs: Sequence[float]) -> float:
    # A factor of zero settles it; below it every factor is 0/0, hence NaN.
    return -math.inf if -math.inf in logs else math.fsum(logs) if math.inf not in logs else math.inf
