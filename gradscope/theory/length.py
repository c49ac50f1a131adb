"""The length map q -> sigma_w^2 E[phi^2] + sigma_b^2 and its fixed points, those approached slowly among them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar

from gradscope.theory.expectations import Moments, exact_moments, moments
from gradscope.theory.functions import Activation

Array = NDArray[np.float64]

SMALLEST, LARGEST = 1e-12, 1e12
"""Fixed points are looked for between these; what leads below or beyond is called 0 or infinity."""
_PER_DECADE = 20
_NOISE = 1e-13
"""Relative size below which a step of q is rounding."""
_TOUCH = 1e-8
"""Relative step below which q that comes to a stand between two tries is at a fixed point."""
_NEAR = 0.05
_MARGINAL = 1e-6
_LAYERS = 20000


@dataclass(frozen=True)
class FixedPoint:
    """A fixed point of the length map.

    Attributes:
        q: Its place.
        slope: Derivative of the map there: deviations change by this factor per layer.
    """

    q: float
    slope: float

    @property
    def kind(self) -> str:
        """`stable`, `unstable` or, where the slope is 1, `marginal`."""
        if abs(abs(self.slope) - 1.0) < _MARGINAL:
            return "marginal"
        return "stable" if abs(self.slope) < 1.0 else "unstable"


@dataclass(frozen=True)
class Table:
    """Moments of an activation on a logarithmic grid of q, and their limits."""

    q: Array
    square: Array
    slope_square: Array

    @property
    def rising(self) -> bool:
        """Whether E phi^2 rises with q, as for every usual activation: then q moves towards one side for good."""
        return bool(np.all(np.diff(self.square) >= -1e-12 * self.square[1:]))

    @property
    def levels(self) -> bool:
        """Whether E phi^2 grows more slowly than q at last, as for bounded functions: then some q is not exceeded."""
        return bool(self.square[-1] < 5.0 * self.square[-1 - _PER_DECADE])


@lru_cache(maxsize=64)
def table(activation: Activation) -> Table:
    """Return E phi^2 and E phi'^2 on a grid of q; computed once per activation."""
    decades = round(math.log10(LARGEST / SMALLEST))
    q = np.geomspace(SMALLEST, LARGEST, decades * _PER_DECADE + 1)
    found = Moments(*exact_moments(activation, q))
    return Table(q, found.square, found.slope_square)


# Variances up to 1e12, of a function that may grow like exp, leave the range of doubles: infinite, or no number, there.
@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def fixed_points_of(activation: Activation, weight_var: float, bias_var: float) -> tuple[FixedPoint, ...]:
    """Return all fixed points above 0, ascending; none where every q is one, or the map has none.

    Found by a change of sign of f(q) - q, so that slowly approached ones are as exact as others.
    """
    if activation.sides is not None:
        return _straight(activation.sides, weight_var, bias_var)
    known = table(activation)

    def step(log_q: float) -> float:
        """Return the relative step f(q) / q - 1."""
        q = math.exp(log_q)
        return (weight_var * float(moments(activation, q).square) + bias_var) / q - 1.0

    steps = (weight_var * known.square + bias_var) / known.q - 1.0
    steps[np.abs(steps) < _NOISE] = 0.0
    logs = np.log(known.q)
    roots = [
        float(brentq(step, logs[at], logs[at + 1], xtol=1e-14, rtol=1e-14))
        for at in np.flatnonzero(steps[:-1] * steps[1:] < 0.0)
    ]
    roots.extend(float(logs[at]) for at in _exact(steps))
    for at in _turns(steps):
        roots.extend(_between(step, float(logs[at - 1]), float(logs[at + 1]), float(steps[at])))
    return tuple(_described(activation, weight_var, math.exp(one)) for one in sorted(roots))


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def reached(
    activation: Activation, weight_var: float, bias_var: float, q0: float, points: tuple[FixedPoint, ...]
) -> FixedPoint | float:
    """Return the fixed point that q comes to from `q0`; 0 or infinity where it leaves, NaN where it finds no rest.

    An unstable fixed point is reached from itself alone: a `q0` within 5 % of it is taken to mean it.
    """
    for point in points:
        if point.kind == "unstable" and abs(math.log(q0 / point.q)) < _NEAR:
            return point
    if not table(activation).rising and activation.sides is None:
        return _iterated(activation, weight_var, bias_var, q0, points)
    ahead = weight_var * float(moments(activation, q0).square) + bias_var - q0
    if ahead > 0.0:
        return next((one for one in points if one.q >= q0), math.inf)
    if ahead < 0.0:
        return next((one for one in reversed(points) if one.q <= q0), 0.0)
    return next((one for one in points if math.isclose(one.q, q0, rel_tol=1e-9)), math.nan)


def _straight(sides: tuple[float, float], weight_var: float, bias_var: float) -> tuple[FixedPoint, ...]:
    factor = weight_var * (sides[0] ** 2 + sides[1] ** 2) / 2.0
    return (FixedPoint(bias_var / (1.0 - factor), factor),) if bias_var > 0.0 and factor < 1.0 else ()


def _exact(steps: Array) -> list[int]:
    """Return where a try is itself a fixed point; several in a row are rounding."""
    still = steps == 0.0
    alone = still[1:-1] & ~still[:-2] & ~still[2:]
    return [int(one) + 1 for one in np.flatnonzero(alone)]


def _turns(steps: Array) -> list[int]:
    """Return where |step| has a minimum without a change of sign around: two fixed points may lie between the tries."""
    size = np.abs(steps)
    low = (size[1:-1] < size[:-2]) & (size[1:-1] < size[2:])
    same = (np.sign(steps[1:-1]) == np.sign(steps[:-2])) & (np.sign(steps[1:-1]) == np.sign(steps[2:]))
    return [int(one) + 1 for one in np.flatnonzero(low & same & (size[1:-1] > 0.0))]


def _between(step: Callable[[float], float], left: float, right: float, at: float) -> list[float]:
    sign = math.copysign(1.0, at)
    best = minimize_scalar(lambda x: sign * step(x), bounds=(left, right), method="bounded", options={"xatol": 1e-10})
    if best.fun > _TOUCH:
        return []
    if best.fun > -_TOUCH:
        return [float(best.x)]
    return [
        float(brentq(step, *ends, xtol=1e-14, rtol=1e-14)) for ends in ((left, float(best.x)), (float(best.x), right))
    ]


def _described(activation: Activation, weight_var: float, q: float) -> FixedPoint:
    return FixedPoint(q, weight_var * float(moments(activation, q).length_slope))


def _iterated(
    activation: Activation, weight_var: float, bias_var: float, q: float, points: tuple[FixedPoint, ...]
) -> FixedPoint | float:
    """Follow a map that does not rise everywhere layer by layer, on the table."""
    known = table(activation)
    logs = np.log(known.q)
    for _ in range(_LAYERS):
        after = weight_var * float(np.interp(math.log(q), logs, known.square)) + bias_var
        if not SMALLEST < after < LARGEST:
            return 0.0 if after <= SMALLEST else math.inf
        if abs(after - q) < 1e-9 * q:
            break
        q = after
    near = min(points, key=lambda one: abs(math.log(one.q / q)), default=None)
    return near if near is not None and abs(math.log(near.q / q)) < _NEAR else math.nan
