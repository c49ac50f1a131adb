"""The ledger: which factor takes the gradient's norm down, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gradscope.errors import UnknownNameError

OUTPUT = "output_grad_norm"
OWN = "input_grad_norm"
TOTAL = "input_grad_total_norm"
NEXT = "next_input_grad_norm"
SHARE = "input_share"


def needed(recorded: Iterable[str]) -> tuple[str, ...]:
    """Return the metrics that the ledger is built from, of those a run has recorded.

    The gradient between two layers is read at the input of the upper one. A run that did not record it there has
    it at the output of the lower one, which is the same where nothing branches off.

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
    return (OUTPUT, OWN, between, *([SHARE] if SHARE in known else []))


def ledger(trunk: Sequence[int], profiles: Mapping[str, pd.Series[float]]) -> pd.DataFrame:
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

    Args:
        trunk: Depths from first layer to head.
        profiles: By metric, values over depth: output_grad_norm, input_grad_norm, input_grad_total_norm, and
            input_share where recorded. Without input_grad_total_norm, next_input_grad_norm stands for it: that is
            the gradient at the input of the *first* layer that takes in a_l, another one than the successor on the
            trunk where a branch is called before it.

    Returns:
        One row per depth of the trunk: weight_gain, activation_gain, path_gain, share, other_share, log10 of
        each gain, and `cumulative`: log10 of |dL/dz_l| / |dL/dz_L| rebuilt from the factors alone, 0 at the
        head; all NaN where the head's own is 0, NaN or infinite. NaN where a factor is undefined: 0/0, not
        recorded, the weight gain of a first layer whose input needs no gradient. A gain of 0 has the logarithm
        -inf.
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
        logs = {f"log10_{name}": np.log10(gain) for name, gain in gains.items()}
        steps = (logs["log10_activation_gain"][:-1] + logs["log10_path_gain"][1:]) + logs["log10_weight_gain"][1:]
    at_head = np.where(np.isfinite(output[-1:]) & (output[-1:] != 0.0), 0.0, np.nan)
    rebuilt = np.concatenate([np.cumsum(steps[::-1])[::-1], np.zeros(len(end))]) + at_head
    shares = {"share": share, "other_share": 1.0 - share}
    return pd.DataFrame({**gains, **shares, **logs, "cumulative": rebuilt}, index=index)


def _along(index: pd.Index[int], profiles: Mapping[str, pd.Series[float]], name: str) -> NDArray[np.float64]:
    """Return a metric over the trunk; NaN where it has no value, or none anywhere."""
    if name not in profiles:
        return np.full(len(index), np.nan)
    return np.asarray(profiles[name].reindex(index), np.float64)
