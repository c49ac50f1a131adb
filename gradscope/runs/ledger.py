"""The ledger: which factor takes the gradient's norm down, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gradscope.errors import UnknownNameError
from gradscope.spec import LayerSpec

OUTPUT = "output_grad_norm"
OWN = "input_grad_norm"
TOTAL = "input_grad_total_norm"
NEXT = "next_input_grad_norm"
SHARE = "input_share"
NORM, PHI, JOIN = "norm_gain", "phi_gain", "join_gain"
SPLIT = ("norm_gain", "phi_gain", "pool_gain")
"""The factors of an activation gain."""
GAINS = ("weight_gain", "activation_gain", "path_gain", *SPLIT, JOIN)
SAME = 1e-5
"""Relative difference up to which two norms are of the same gradient, read twice in single precision."""


def needed(recorded: Iterable[str]) -> tuple[str, ...]:
    """Return the metrics that the ledger is built from, of those a run has recorded.

    The gradient between two layers is read at the input of the upper one. A run that did not record it there has
    it at the output of the lower one, which is the same where nothing branches off.

    Shares are read where they were recorded, and so are the gains of normalizations and activation functions, without
    which no activation gain is split.

    >>> needed(["output_grad_norm", "input_grad_norm", "next_input_grad_norm", "input_share"])
    ('output_grad_norm', 'input_grad_norm', 'next_input_grad_norm', 'input_share')

    Raises:
        UnknownNameError: Some of them were not recorded; the message names them.
    """
    known = tuple(recorded)
    between = NEXT if NEXT in known and TOTAL not in known else TOTAL
    missing = [name for name in (OUTPUT, OWN, between) if name not in known]
    if missing:
        names = " and ".join([", ".join(missing[:-1]), missing[-1]] if missing[1:] else missing)
        raise UnknownNameError(
            f"the ledger needs {names}, which this run did not record; watch with metrics='backward'"
        )
    return tuple(
        dict.fromkeys((OUTPUT, OWN, between, *(one for one in (SHARE, NORM, PHI, JOIN, NEXT) if one in known)))
    )


def ledger(
    trunk: Sequence[int],
    profiles: Mapping[str, pd.Series[float]],
    layers: Mapping[int, LayerSpec] | None = None,
) -> pd.DataFrame:
    """Split the ratio of the gradient's norms along the trunk into factors.

    With z_l the output of layer l of the trunk, a_l what its successor on the trunk takes in (the total gradient
    there, of all paths), and "own" what layer l sends back through its own weights::

        weight_gain_l     = |own contribution of l to dL/da_(l-1)| / |dL/dz_l|
        activation_gain_l = |dL/dz_l| / |dL/da_l|
        path_gain_l       = |dL/da_(l-1)| / |own contribution of l|      1 where nothing else contributes

        |dL/dz_(l-1)| / |dL/dz_l| = activation_gain_(l-1) * path_gain_l * weight_gain_l          exact

    so that along a chain |dL/dz_1| / |dL/dz_L| is the product of the weight gains from 2 to L and the
    activation gains from 1 to L-1. `share` is <own, total> / |total|^2 of the input gradient, `other_share`
    the rest (skips, branches); they are not factors.

    An activation gain is itself a product::

        activation_gain_l = norm_gain_l * phi_gain_l * pool_gain_l                              exact
        norm_gain_l = |what the normalization sends back| / |dL/dnorm(z_l)|      1 without a normalization before phi
        phi_gain_l  = |phi'(u_l) dL/dphi(u_l)| / |dL/dphi(u_l)|                  1 without an activation function
        pool_gain_l = all else that lies between: pooling, dropout, padding, concatenation, a normalization that comes
                      after phi, and the paths that join on the way           1 where there is nothing else

    `join_gain` is what such paths contribute to `pool_gain`: |g| / |what of g came from the next layer|, with g the
    gradient of a tensor on the way that another path uses. In a residual block with phi after the sum no path joins
    before the next layer's input, so that its skip is in the path gain alone; where the sum is normalized or goes
    through phi first (pre-activation), the skip leaves on the way, and is in the join gain.
    Normalization and activation function are those on the way to the first layer that takes in a_l.

    Args:
        trunk: Depths from first layer to head.
        profiles: By metric, values over depth: output_grad_norm, input_grad_norm, input_grad_total_norm, and
            input_share where recorded. Without input_grad_total_norm, next_input_grad_norm stands for it: that is
            the gradient at the input of the *first* layer that takes in a_l, another one than the successor on the
            trunk where a branch is called before it. norm_gain, phi_gain and join_gain where they have values.
        layers: Layer calls by depth, which tell where there is no normalization or no activation function; None for
            a run that did not record the gains of these, whose activation gains are not split.

    Returns:
        One row per depth of the trunk: weight_gain, activation_gain, path_gain, norm_gain, phi_gain, pool_gain,
        join_gain, share, other_share, log10 of each gain, and `cumulative`: log10 of |dL/dz_l| / |dL/dz_L| rebuilt
        from the factors alone, 0 at the head; all NaN where the head's own is 0, NaN or infinite. NaN where a factor
        is undefined: 0/0, not recorded, the weight gain of a first layer whose input needs no gradient, the factors
        of an activation gain whose activation function was not recognised. A gain of 0 has the logarithm -inf.
    """
    index = pd.Index(trunk, name="depth", dtype=np.int64)
    output, own, share = (_along(index, profiles, name) for name in (OUTPUT, OWN, SHARE))
    between = _along(index, profiles, TOTAL)[1:] if TOTAL in profiles else _along(index, profiles, NEXT)[:-1]
    end = np.full(min(1, len(index)), np.nan)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        gains = {
            "weight_gain": own / output,
            "activation_gain": np.concatenate([output[:-1] / between, end]),
            "path_gain": np.concatenate([end, between / own[1:]]),
        }
        first = _along(index, profiles, NEXT)[:-1]
        gains |= _split(index, profiles, layers or {}, gains["activation_gain"], np.append(first / between, end))
        logs = {f"log10_{name}": np.log10(gain) for name, gain in gains.items()}
        steps = (logs["log10_activation_gain"][:-1] + logs["log10_path_gain"][1:]) + logs["log10_weight_gain"][1:]
    at_head = np.where(np.isfinite(output[-1:]) & (output[-1:] != 0.0), 0.0, np.nan)
    rebuilt = np.concatenate([np.cumsum(steps[::-1])[::-1], np.zeros(len(end))]) + at_head
    shares = {"share": share, "other_share": 1.0 - share}
    return pd.DataFrame({**gains, **shares, **logs, "cumulative": rebuilt}, index=index)


def _split(
    index: pd.Index[int],
    profiles: Mapping[str, pd.Series[float]],
    layers: Mapping[int, LayerSpec],
    whole: NDArray[np.float64],
    elsewhere: NDArray[np.float64],
) -> dict[str, NDArray[np.float64]]:
    """Split activation gains into their factors.

    Args:
        index: The trunk.
        profiles: By metric.
        layers: By depth.
        whole: The activation gains.
        elsewhere: Norm of the gradient where the output is first taken in, by that where the trunk takes it in.
    """
    norm, phi, join = (_along(index, profiles, name) for name in (NORM, PHI, JOIN))
    specs = [layers.get(depth) for depth in index]
    has_norm = np.array([one is None or one.norm != "none" for one in specs], dtype=np.bool_)
    has_phi = np.array([one is None or one.activation != "identity" for one in specs], dtype=np.bool_)
    norm, phi = np.where(has_norm, norm, 1.0), np.where(has_phi, phi, 1.0)
    # What lies on the way to the first layer says nothing of a trunk that goes another way and was seen nothing of.
    unseen = ~has_norm & ~has_phi & (np.abs(elsewhere - 1.0) > SAME)
    unknown = np.array([one is None or one.activation == "?" for one in specs], dtype=np.bool_) | unseen
    pool = np.where(unknown, np.nan, whole / (norm * phi))
    is_split = ~np.isnan(pool)
    gains = {"norm_gain": norm, "phi_gain": phi, "pool_gain": pool}
    # At the end of the trunk there is no way to a next layer; a gain of zero leaves the rest undefined, not itself.
    known = ~unknown & ~np.isnan(whole)
    gains = {name: np.where(known, gain, np.nan) for name, gain in gains.items()}
    return gains | {JOIN: np.where(is_split, np.where(np.isnan(join), 1.0, join), np.nan)}


def _along(index: pd.Index[int], profiles: Mapping[str, pd.Series[float]], name: str) -> NDArray[np.float64]:
    """Return a metric over the trunk; NaN where it has no value, or none anywhere."""
    if name not in profiles:
        return np.full(len(index), np.nan)
    return np.asarray(profiles[name].reindex(index), np.float64)
