"""The phase diagram: chi over weight variance and bias variance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from gradscope.errors import InvalidValueError
from gradscope.theory.functions import Activation, Function, activation_of
from gradscope.theory.length import table

Array = NDArray[np.float64]
_FALLS, _STILL = -1, -2


@dataclass(frozen=True)
class PhaseDiagram:
    """The fixed point over a grid of variances; `q` and `chi` have a row per bias variance.

    Attributes:
        weight_var: The columns.
        bias_var: The rows.
        q: Mean square that is reached; 0 where it falls away, infinite where it grows without bound.
        chi: Factor per layer of the mean square gradient there, in the limit where q is 0 or infinite. Above 1 is
            chaos, below is order, and chi = 1 the edge between.
    """

    weight_var: Array
    bias_var: Array
    q: Array
    chi: Array


def phase_diagram(
    activation: str | Function | Activation,
    weight_var: Sequence[float] | Array,
    bias_var: Sequence[float] | Array,
    *,
    q0: float = 1.0,
) -> PhaseDiagram:
    """Return q and chi for every pair of variances, by interpolation to about 6 digits.

    Args:
        activation: One of `ACTIVATIONS`, a function on arrays, or an `Activation`; E phi^2 should rise with the
            variance, as it does for every usual one.
        weight_var: sigma_w^2 of the columns.
        bias_var: sigma_b^2 of the rows.
        q0: Where the recursion starts.

    Raises:
        UnknownNameError: No such activation.
        InvalidValueError: A variance below zero or not finite.

    Sources: Poole et al. 2016; Schoenholz et al. 2017.

    >>> found = phase_diagram("tanh", [1.0, 2.5], [0.05])
    >>> found.chi.round(4).tolist()
    [[0.759, 1.1335]]
    """
    phi = activation_of(activation)
    weights, biases = _axis("weight_var", weight_var), _axis("bias_var", bias_var)
    grid_w, grid_b = np.meshgrid(weights, biases)
    known = table(phi)
    logs = np.log(known.q)
    square, slope = CubicSpline(logs, known.square / known.q), CubicSpline(logs, known.slope_square)
    place = _settled(known.q, known.square, grid_w, grid_b, q0)
    low, high = logs[np.maximum(place, 0)], logs[np.clip(place + 1, 0, len(logs) - 1)]
    for _ in range(50):
        middle = 0.5 * (low + high)
        above = grid_w * square(middle) + grid_b * np.exp(-middle) > 1.0
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    q = np.select([place == _STILL, place == _FALLS, place == len(logs) - 1], [q0, 0.0, np.inf], np.exp(low))
    chi = np.select(
        [place == _STILL, place == _FALLS, place == len(logs) - 1],
        [slope(np.log(q0)), known.slope_square[0], known.slope_square[-1]],
        slope(low),
    )
    return PhaseDiagram(weights, biases, q, grid_w * chi)


def _settled(q: Array, square: Array, weight_var: Array, bias_var: Array, q0: float) -> NDArray[np.intp]:
    """Return the place on the grid of q above which the map first crosses the diagonal downwards, seen from `q0`."""
    steps = (weight_var[..., None] * square + bias_var[..., None]) / q - 1.0
    start = int(np.clip(np.searchsorted(q, q0), 1, len(q) - 2))
    up = steps > 0.0
    ahead = np.argmin(up[..., start:], axis=-1) + start - 1
    ahead = np.where(up[..., start:].all(axis=-1), len(q) - 1, ahead)
    behind = start - 1 - np.argmax(up[..., start - 1 :: -1], axis=-1)
    behind = np.where(up[..., :start].any(axis=-1), behind, _FALLS)
    here = steps[..., start]
    place = np.where(here > 0.0, ahead, behind)
    return np.where(np.abs(here) < 1e-13, _STILL, place)


def _axis(name: str, values: Sequence[float] | Array) -> Array:
    axis = np.atleast_1d(np.asarray(values, np.float64))
    if axis.ndim != 1 or not np.all(np.isfinite(axis) & (axis >= 0.0)):
        raise InvalidValueError(f"{name} is a list of finite numbers not below 0, not {values!r}")
    return axis
