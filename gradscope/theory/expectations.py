"""Gaussian expectations of functions with kinks, to about 14 digits.

Gauss-Hermite quadrature is wrong by a percent for a derivative that jumps. Here the axis is split at every kink and
at 0, panels shrink geometrically towards 0, so that any scale of the variance is resolved, and each has 16
Gauss-Legendre nodes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from gradscope.theory.functions import Activation

Array = NDArray[np.float64]

REACH = 10.0
"""Standard deviations integrated over; beyond lies less than 1e-22."""
_TINY = 1e-290
_CHUNK = 256
_DEGREES = np.array([0.5, 1.0, 0.0, 0.0, 0.0, 2.0, 1.0])
"""Powers of q that the moments are proportional to if phi is linear, so that what is left is smooth."""
_MANY = 200
"""Different variances above which moments are interpolated."""


@dataclass(frozen=True)
class Moments:
    """Expectations over u ~ N(0, q), one entry per q.

    Attributes:
        mean: E phi.
        square: E phi^2.
        slope_square: E phi'^2.
        slope_fourth: E phi'^4.
        length_slope: dE phi^2 / dq, which has no delta function to miss at a kink.
        fourth: E phi^4.
        mixed: E phi^2 phi'^2.
    """

    mean: Array
    square: Array
    slope_square: Array
    slope_fourth: Array
    length_slope: Array
    fourth: Array
    mixed: Array


def moments(activation: Activation, q: float | Array) -> Moments:
    """Return the moments of phi and its derivative at every variance `q`; NaN where q is NaN, infinite or negative."""
    variances = np.asarray(q, np.float64)
    flat = variances.ravel()
    distinct, back = np.unique(np.where(np.isfinite(flat) & (flat >= 0.0), flat, np.nan), return_inverse=True)
    found = _interpolated(activation, distinct) if len(distinct) > _MANY else exact_moments(activation, distinct)
    return Moments(*(row[back].reshape(variances.shape) for row in found))


def exact_moments(activation: Activation, q: Array) -> Array:
    """Return the seven moments, a row each, without interpolation."""
    parts = [_moments(activation, q[at : at + _CHUNK]) for at in range(0, len(q), _CHUNK)]
    return np.concatenate(parts, axis=1) if parts else np.empty((7, 0))


def _interpolated(activation: Activation, q: Array) -> Array:
    """Return the moments at many variances, as a measured picture has them: splines in ln q, to about 9 digits."""
    inside = q > _TINY
    logs = np.log(q[inside])
    decades = (logs[-1] - logs[0]) / np.log(10.0)
    tries = np.linspace(logs[0], logs[-1], max(32, min(_MANY * 4, int(32 * decades))) + 1)
    found = np.empty((7, len(q)))
    found[:, ~inside] = exact_moments(activation, q[~inside])
    powers = _DEGREES[:, None]
    shown = exact_moments(activation, np.exp(tries)) * np.exp(-powers * tries)
    found[:, inside] = CubicSpline(tries, shown, axis=1)(logs) * np.exp(powers * logs)
    return found


def pair_moments(activation: Activation, q: float, c: float) -> tuple[float, float]:
    """Return E phi(u1) phi(u2) and E phi'(u1) phi'(u2) for u of variance `q` and correlation `c`."""
    return pair_moment(activation, q, c, slope=False), pair_moment(activation, q, c, slope=True)


def pair_moment(activation: Activation, q: float, c: float, *, slope: bool) -> float:
    """Return E f(u1) f(u2), f = phi' or phi, for u of variance `q` and correlation `c`, between -1 and 1."""
    if not (np.isfinite(q) and np.isfinite(c)):
        return float("nan")
    f = activation.slope if slope else activation.phi
    root = float(np.sqrt(max(q, _TINY)))
    breaks = tuple(kink / root for kink in activation.kinks)
    z, weight = _coarse(breaks)
    first = f(root * z)
    rest = float(np.sqrt(max(0.0, (1.0 - c) * (1.0 + c))))
    if rest < 1e-12:
        return float(np.sum(weight * first * f(np.sign(c) * root * z)))
    sides, inner = _unit()
    # The inner integral, split where its argument passes a kink (or 0), and graded towards that point.
    stops = sorted({0.0, *breaks})
    edges = [np.full_like(z, -REACH), *[np.clip((stop - c * z) / rest, -REACH, REACH) for stop in stops]]
    edges.append(np.full_like(z, REACH))
    total = np.zeros_like(z)
    for left, right in itertools.pairwise(edges):
        x = left[:, None] + (right - left)[:, None] * sides
        density = np.exp(-0.5 * x * x) / np.sqrt(2.0 * np.pi)
        values = f(root * (c * z[:, None] + rest * x))
        total += (right - left) * np.sum(inner * density * values, axis=1)
    return float(np.sum(weight * first * total))


def _moments(activation: Activation, q: Array) -> Array:
    if set(activation.kinks) <= {0.0}:
        return _on_grid(activation, q, *standard_normal(()))
    rows = [
        _on_grid(
            activation,
            q[at : at + 1],
            *standard_normal(tuple(kink / np.sqrt(max(one, _TINY)) for kink in activation.kinks)),
        )
        for at, one in enumerate(q)
    ]
    return np.concatenate(rows, axis=1)


def _on_grid(activation: Activation, q: Array, z: Array, weight: Array) -> Array:
    root = np.sqrt(np.maximum(q, _TINY))[:, None]
    u = root * z
    with np.errstate(over="ignore", invalid="ignore"):
        phi = np.broadcast_to(activation.phi(u), u.shape)
        slope = np.broadcast_to(activation.slope(u), u.shape)
        integrands = (
            phi,
            phi**2,
            slope**2,
            slope**4,
            phi * slope * z / root,
            phi**4,
            phi**2 * slope**2,
        )
        result: Array = np.stack([np.asarray(one @ weight) for one in integrands])
    return result


@lru_cache(maxsize=4096)
def standard_normal(breaks: tuple[float, ...]) -> tuple[Array, Array]:
    """Nodes and weights of a standard normal variable, split at 0 and at `breaks`."""
    graded = REACH * 2.0 ** -np.arange(5.0, 46.0)
    return _composite(np.concatenate([graded, np.arange(1.0, 33.0) * REACH / 32.0]), breaks, 16)


@lru_cache(maxsize=256)
def _coarse(breaks: tuple[float, ...]) -> tuple[Array, Array]:
    """The same with fewer nodes, for the outer of two integrals."""
    graded = REACH * 2.0 ** -np.arange(4.0, 26.0)
    return _composite(np.concatenate([graded, np.arange(1.0, 17.0) * REACH / 16.0]), breaks, 8)


@lru_cache(maxsize=1)
def even_normal() -> tuple[Array, Array]:
    """Return nodes and weights of a standard normal variable without grading: 144 of each, for double integrals."""
    return _composite(np.arange(1.0, 7.0) * REACH / 6.0, (), 12)


def _composite(edges: Array, breaks: tuple[float, ...], count: int) -> tuple[Array, Array]:
    inside = [one for one in breaks if abs(one) < REACH]
    ends = np.unique(np.concatenate([-edges, [0.0], edges, inside]))
    x, w = np.polynomial.legendre.leggauss(count)
    half = np.diff(ends)[:, None] / 2.0
    z = (ends[:-1, None] + half * (1.0 + x)).ravel()
    weight = (half * w).ravel() * np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi)
    return z, weight


@lru_cache(maxsize=1)
def _unit() -> tuple[Array, Array]:
    """Nodes and weights on [0, 1], graded towards both ends."""
    graded = 2.0 ** -np.arange(2.0, 16.0)
    ends = np.unique(np.concatenate([[0.0], graded, np.linspace(0.25, 0.75, 9), 1.0 - graded, [1.0]]))
    x, w = np.polynomial.legendre.leggauss(8)
    half = np.diff(ends)[:, None] / 2.0
    return (ends[:-1, None] + half * (1.0 + x)).ravel(), (half * w).ravel()
