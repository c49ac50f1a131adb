"""The edge of chaos: the weight variance at which gradients neither vanish nor explode."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from gradscope.errors import GradscopeError
from gradscope.theory.expectations import Moments, exact_moments, moments
from gradscope.theory.functions import Activation, Function, activation_of
from gradscope.theory.length import table
from gradscope.theory.mean_field import checked

_STEADY = 1e-6
_BESIDE_ZERO = 1e-3
"""Where fixed points at 0, and next to it, are tested for stability: their own slope is 1, or too near to tell."""


@dataclass(frozen=True)
class Criticality:
    """A point at which chi = 1: `q` its fixed point, `weight_var` and `bias_var` the variances that make it so."""

    q: float
    weight_var: float
    bias_var: float


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def critical(
    activation: str | Function | Activation,
    bias_var: float = 0.0,
    *,
    derivative: Function | None = None,
    kinks: tuple[float, ...] | None = None,
) -> float:
    """Return the weight variance sigma_w^2 of chi = 1, where gradients keep their norm on average.

    With X = E phi'^2 and V = E phi^2 at the variance q of the fixed point::

        sigma_w^2 = 1 / X        q = V / X + sigma_b^2

    For phi(u) = a u below and b u above 0, sigma_w^2 = 2 / (a^2 + b^2) whatever the bias (with one, q then grows by
    it in every layer). Without bias, and phi(0) = 0, the fixed point is q = 0 and sigma_w^2 = 1 / phi'(0)^2.

    Args:
        activation: One of `ACTIVATIONS`, a function on arrays, or an `Activation`.
        bias_var: sigma_b^2.
        derivative: Derivative of a function that is given; None differentiates numerically.
        kinks: Where that derivative jumps; None looks for them.

    Raises:
        UnknownNameError: No such activation.
        InvalidValueError: A variance below zero or not finite.
        GradscopeError: No weight variance makes chi = 1 at a fixed point that is reached.

    Source: Schoenholz et al. 2017.

    >>> critical("relu"), round(critical("tanh", bias_var=0.05), 6)
    (2.0, 1.760955)
    """
    phi = activation_of(activation, derivative, kinks)
    bias_var = checked("bias_var", bias_var)
    if phi.sides is not None:
        return _straight(phi)
    found = [_with_slope(phi, q) for q in _fixed_points(phi, bias_var)]
    steady = [one for one, slope in found if slope <= 1.0 + _STEADY]
    if steady:
        return steady[0].weight_var
    if found:
        raise GradscopeError(_unsteady(phi, bias_var, found[0][0]))
    raise GradscopeError(f"no weight variance gives {phi.name} a fixed point with chi = 1 at bias_var = {bias_var:.6g}")


def stationary_criticality(
    activation: str | Function | Activation,
    *,
    derivative: Function | None = None,
    kinks: tuple[float, ...] | None = None,
) -> Criticality:
    """Return where both chi = 1 and the length map has slope 1, so that gradients and q keep their size at once.

    For GELU and SiLU this is the one good choice of both variances: below this bias_var the critical point is
    unstable. For tanh and its like it is the end of the critical line, at q = 0.

    Raises:
        UnknownNameError: No such activation.
        GradscopeError: There is no such point.

    Source: Roberts, Yaida & Hanin 2022, The Principles of Deep Learning Theory.

    >>> found = stationary_criticality("gelu")
    >>> round(found.q, 6), round(found.weight_var, 6), round(found.bias_var, 6)
    (3.561553, 1.983058, 0.172922)
    """
    phi = activation_of(activation, derivative, kinks)
    if phi.sides is not None:
        return Criticality(0.0, _straight(phi), 0.0)
    q = _stationary(phi)
    if q is not None:
        found = moments(phi, q)
        weight_var = 1.0 / float(found.slope_square)
        return Criticality(q, weight_var, q - weight_var * float(found.square))
    limit = float(moments(phi, 0.0).slope_square)
    if _vanishes(phi) and limit > 0.0:
        return Criticality(0.0, 1.0 / limit, 0.0)
    raise GradscopeError(f"{phi.name} has no point at which both chi and the slope of the length map are 1")


def _straight(phi: Activation) -> float:
    sides = phi.sides or (0.0, 0.0)
    total = sides[0] ** 2 + sides[1] ** 2
    if total == 0.0:
        raise GradscopeError(f"no weight variance makes chi = 1 for {phi.name}, whose slope is 0 everywhere")
    return 2.0 / total


def _vanishes(phi: Activation) -> bool:
    return abs(float(phi.phi(np.zeros(1))[0])) < 1e-12


def _fixed_points(phi: Activation, bias_var: float) -> list[float]:
    """Return every q with q = V / X + sigma_b^2, ascending; 0 stands for the limit."""
    known = table(phi)
    roots = [0.0] if bias_var == 0.0 and _vanishes(phi) and float(moments(phi, 0.0).slope_square) > 0.0 else []

    def excess(log_q: float) -> float:
        q = math.exp(log_q)
        found = moments(phi, q)
        return 1.0 - float(found.square) / float(found.slope_square) / q - bias_var / q

    with np.errstate(divide="ignore", invalid="ignore"):
        values = 1.0 - known.square / known.slope_square / known.q - bias_var / known.q
    # Where q X / V differs from 1 by rounding alone, as near 0 it does, no sign can be trusted: it changes across that.
    sure = ~(np.abs(values) < 1e-9)
    values, logs = values[sure], np.log(known.q[sure])
    changes = np.flatnonzero(values[:-1] * values[1:] < 0.0)
    log_roots = (float(brentq(excess, logs[at], logs[at + 1], xtol=1e-14, rtol=1e-14)) for at in changes)
    return [*roots, *map(math.exp, log_roots)]


def _with_slope(phi: Activation, q: float) -> tuple[Criticality, float]:
    """Return the critical point at `q` and the slope of its length map."""
    found = moments(phi, q)
    weight_var = 1.0 / float(found.slope_square)
    near = moments(phi, max(q, _BESIDE_ZERO))
    return (
        Criticality(q, weight_var, q - weight_var * float(found.square)),
        float(near.length_slope / near.slope_square),
    )


def _stationary(phi: Activation) -> float | None:
    """Return the q above 0 at which dV/dq = X; None where it is at 0, or nowhere."""
    q = table(phi).q
    q = q[(q > 1e-4) & (q < 1e8)]
    found = Moments(*exact_moments(phi, q))
    excess = found.length_slope / found.slope_square - 1.0
    changes = np.flatnonzero((excess[:-1] > 1e-9) & (excess[1:] < -1e-9))
    if not len(changes):
        return None

    def at(log_q: float) -> float:
        one = moments(phi, math.exp(log_q))
        return float(one.length_slope / one.slope_square) - 1.0

    ends = math.log(q[changes[0]]), math.log(q[changes[0] + 1])
    return math.exp(float(brentq(at, *ends, xtol=1e-14, rtol=1e-14)))


def _unsteady(phi: Activation, bias_var: float, found: Criticality) -> str:
    where = _stationary(phi)
    hint = ""
    if where is not None:
        least = stationary_criticality(phi)
        hint = f"; from bias_var = {least.bias_var:.6g} on there is a stable one (see stationary_criticality)"
    return (
        f"no weight variance makes {phi.name} critical at bias_var = {bias_var:.6g}: at {found.weight_var:.6g} chi = 1 "
        f"at the fixed point q = {found.q:.6g}, but that is unstable{hint}"
    )
