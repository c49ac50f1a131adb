"""The plane of weight and bias variances: what theory says of each point, and where the layers of a run lie."""

from __future__ import annotations

import math
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gradscope.figures.values import names_by_depth, one_run
from gradscope.figures.window import Range
from gradscope.theory import phase_diagram

if TYPE_CHECKING:
    from gradscope.runs import Run
    from gradscope.spec import LayerSpec

Array = NDArray[np.float64]
CELLS = 60
EDGE_CELLS = 121
FINER = 17
POINT_COLUMNS = ("depth", "layer", "weight_var", "bias_var", "known")


@lru_cache(maxsize=64)
def _edge(activation: str, weight_var: Range, bias_var: Range, log: bool) -> pd.DataFrame:
    # More rows near zero, where the edge of tanh is almost flat.
    up = bias_var[0] + (bias_var[1] - bias_var[0]) * np.linspace(0.0, 1.0, CELLS) ** 2
    found = phase_diagram(activation, spaced(weight_var, log, EDGE_CELLS), up)
    rows = [
        {"branch": branch, "weight_var": _finer(activation, between, bias), "bias_var": bias}
        for bias, line in zip(up.tolist(), found.chi, strict=True)
        for branch, between in enumerate(_crossed(found.weight_var, line))
    ]
    frame = pd.DataFrame(rows, columns=["branch", "weight_var", "bias_var"])
    return frame.sort_values(["branch", "bias_var"], ignore_index=True)


def edge_frame(activation: str, weight_var: Range, bias_var: Range, log: bool = False) -> pd.DataFrame:
    """Return the edge of chaos, chi = 1, in a rectangle of variances.

    Returns:
        Columns branch, weight_var, bias_var: where chi passes 1 from left to right at each bias variance, for the
        first time (branch 0), the second, and so on; ascending in branch and bias variance.
    """
    return _edge(activation, weight_var, bias_var, log).copy()


def spaced(between: Range, log: bool, count: int) -> Array:
    """Return numbers over a range, even on its axis."""
    return np.asarray((np.geomspace if log else np.linspace)(*between, count))


def _crossed(places: Array, chi: Array) -> list[Range]:
    """Return the intervals in which chi passes 1."""
    left = np.flatnonzero((chi[:-1] < 1) != (chi[1:] < 1))
    return [(float(places[one]), float(places[one + 1])) for one in left]


def _finer(activation: str, between: Range, bias: float) -> float:
    """Return where in an interval chi passes 1, be it in a jump."""
    near = phase_diagram(activation, np.linspace(*between, FINER), [bias])
    (low, high), *_ = [*_crossed(near.weight_var, near.chi[0]), between]
    heights = np.log(near.chi[0][np.searchsorted(near.weight_var, [low, high])])
    return float(low + (high - low) * heights[0] / (heights[0] - heights[1]))


def layer_points_frame(run: Run, step: int | None = None, bias_var: float | None = None) -> pd.DataFrame:
    """Return where the hidden layers of a run lie.

    The weight variance is weight_rms^2 fan_in. The bias variance is ``bias_rms``^2 where the run recorded that metric;
    else ``bias_var``; else what the configuration of the run says: its own ``bias_var``, 1 / (3 fan_in) for ``init``
    "default" with biases, zero for every other initialization of the laboratory.

    Args:
        run: A run that recorded ``weight_rms``.
        step: A recorded step; the first where None.
        bias_var: Bias variance where the run did not record it.

    Returns:
        Columns depth, layer, weight_var, bias_var, known (whether anything says what the bias variance is; where
        nothing does it is 0), activation and norm, in depth order, without the head.

    Raises:
        UnknownNameError: The run did not record ``weight_rms``.
        InvalidValueError: The step is not recorded.
    """
    one_run(run)
    roots, biases = run.profile("weight_rms", step), bias_variances(run, step, bias_var)
    names, hidden = names_by_depth(run), set(run.trunk[:-1] or run.trunk)
    rows = [
        {
            "depth": one.depth,
            "layer": names[one.depth],
            "weight_var": float(roots[one.depth]) ** 2 * one.fan_in,
            "bias_var": biases.get(one.depth, 0.0),
            "known": one.depth in biases,
            "activation": one.activation,
            "norm": one.norm,
        }
        for one in run.specs
        if one.depth in hidden and one.depth in roots.index and one.fan_in
    ]
    return pd.DataFrame(rows, columns=[*POINT_COLUMNS, "activation", "norm"])


def bias_variances(run: Run, step: int | None = None, given: float | None = None) -> dict[int, float]:
    """Return the bias variance of layers by depth, as `layer_points_frame` finds it, without those it is unknown of."""
    recorded = run.profile("bias_rms", step) if "bias_rms" in run.metrics else pd.Series(dtype=np.float64)
    found = {one.depth: float(recorded.get(one.depth, math.nan)) ** 2 for one in run.specs}
    said = {
        one.depth: _said(run, one, given) if math.isnan(found[one.depth]) else found[one.depth] for one in run.specs
    }
    return {depth: variance for depth, variance in said.items() if not math.isnan(variance)}


def _said(run: Run, layer: LayerSpec, given: float | None) -> float:
    """Return the bias variance that was given or that the configuration states; NaN where nothing says it."""
    config = run.config
    if given is not None:
        return given
    if config.get("bias") is False:
        return 0.0
    if isinstance(config.get("bias_var"), int | float):
        return float(config["bias_var"])
    init = config.get("init")
    if not isinstance(init, str) or not layer.fan_in:
        return math.nan
    return 1.0 / (3.0 * layer.fan_in) if init == "default" and config.get("weight_var") is None else 0.0


def main_activation(points: pd.DataFrame) -> str:
    """Return the activation most layers have, "?" for none."""
    known = [one for one in points["activation"] if one not in ("?", "identity")] or list(points["activation"])
    return Counter(known).most_common(1)[0][0] if known else "?"


def main_norm(points: pd.DataFrame) -> str:
    """Return the normalization most layers have, "none" for no layers."""
    return Counter(points["norm"]).most_common(1)[0][0] if len(points) else "none"


def has_skips(run: Run) -> bool:
    """Tell whether the outputs of several layers meet anywhere."""
    return any(len(one.parents) > 1 for one in run.specs)
