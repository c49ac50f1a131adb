"""What an activation makes of a signal, and what the gradient passes there on its way back."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gradscope.theory.expectations import moments, pair_moment
from gradscope.theory.flow import Back, Gain
from gradscope.theory.functions import Activation
from gradscope.theory.signal import Signal
from gradscope.theory.units import normal_units, unit_scale

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Response:
    """What an activation makes of a signal.

    Attributes:
        signal: Behind it.
        slope: E phi'^2 per position.
        back: What the gradient passes; None for the identity.
    """

    signal: Signal
    slope: Array
    back: Back | None


def activate(signal: Signal, phi: Activation) -> Response:
    """Apply an activation."""
    if phi.name == "identity":
        return Response(signal, np.ones_like(signal.q), None)
    return _of_normal(signal, phi) if signal.units is None else _of_units(signal, phi)


def _of_normal(signal: Signal, phi: Activation) -> Response:
    found = moments(phi, signal.q)
    slope, fourth, square = found.slope_square, found.slope_fourth, found.square
    if phi.sides is not None:
        # The slope of such a function does not depend on the variance, so that it is known where q is not.
        fixed = moments(phi, np.ones_like(signal.q))
        slope, fourth = fixed.slope_square, fixed.slope_fourth
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = float(np.mean(fourth)) / float(np.mean(slope)) ** 2 if np.mean(slope) > 0 else 1.0
    own, shared = _noise(signal, phi, ratio - 1.0)
    # Correlations are those at one variance, that of the mean: positions differ in theirs.
    level = float(moments(phi, signal.level).square) if signal.q.ndim else float(square)
    alike = tuple(_pair(phi, signal.level, one) / level if level > 0 else math.nan for one in signal.alike)
    behind = replace(signal, q=square, alike=alike, mean=float(np.mean(found.mean)), edge=None)
    if not signal.sampling:
        return Response(behind, slope, Gain(slope, own, shared))
    units, factors = _sampled(phi, normal_units(signal.alike[0], signal.draw), signal.level)
    return Response(replace(behind, units=units, draw=signal.draw + 1), slope, Gain(slope, own, shared, factors))


def _of_units(signal: Signal, phi: Activation) -> Response:
    """Apply an activation to a sample of units; positions differ in their scale alone."""
    assert signal.units is not None
    values = np.sqrt(max(signal.level, 0.0)) * signal.units
    after, slopes = phi.phi(values), phi.slope(values) ** 2
    _, level = unit_scale(after)
    mean_slope = float(np.mean(slopes))
    own, shared = _noise(signal, phi, float(np.mean(slopes**2)) / mean_slope**2 - 1.0 if mean_slope > 0 else 0.0)
    as_normal = moments(phi, signal.level)
    square = float(as_normal.square)
    rest = tuple(_pair(phi, signal.level, one) / square if square > 0 else math.nan for one in signal.alike[1:])
    first = float(np.mean(after[:, 0] * after[:, 1])) / level if level > 0 else math.nan
    relative = signal.q / signal.level if signal.level > 0 else np.ones_like(signal.q)
    units, factors = _sampled(phi, signal.units, signal.level)
    behind = replace(
        signal,
        q=level * relative,
        alike=(math.nan if math.isnan(signal.alike[0]) else first, *rest),
        mean=float(np.mean(after)),
        edge=None,
        units=units,
    )
    slope = np.full_like(signal.q, mean_slope)
    return Response(behind, slope, Gain(slope, own, shared, factors))


def _sampled(phi: Activation, units: Array, q: float) -> tuple[Array, Array | None]:
    """Return a sample of units behind an activation, and the squares of its slope there relative to their mean."""
    values = np.sqrt(q if q >= 0.0 else 1.0) * units
    slopes = phi.slope(values) ** 2
    mean = float(np.mean(slopes))
    factors = slopes / mean if mean > 0.0 else None
    return unit_scale(np.asarray(phi.phi(values)))[0], factors


def weight_noise(signal: Signal, width: int, *, orthogonal: bool) -> float:
    """Return the relative variance that random weights in front of `width` units add to the energy of a gradient."""
    return 0.0 if orthogonal or not width else 2.0 / (width * signal.rank)


def _noise(signal: Signal, phi: Activation, spread: float) -> tuple[float, float]:
    """Return the variance that an activation adds per spatial mode, and in common to all positions.

    `spread` is E phi'^4 / (E phi'^2)^2 - 1. Over several samples or positions only what phi'^2 has in common at two
    of them is left; the factor 1 + 2 / rank is that of normally distributed gradients.
    """
    if not signal.width:
        return 0.0, 0.0
    more = 1.0 + 2.0 / signal.rank
    if signal.q.ndim:
        return spread * more / signal.width, _in_common(
            signal, phi, signal.alike[-1 if len(signal.alike) > 2 else 0]
        ) / signal.width
    part = 1.0 / signal.samples
    rest = _in_common(signal, phi, signal.alike[0]) if signal.samples > 1 else 0.0
    return (part * spread + (1.0 - part) * rest) * more / signal.width, 0.0


def _in_common(signal: Signal, phi: Activation, alike: float) -> float:
    """Return the relative covariance of phi'^2 at two places, the same place where their correlation is not known."""
    known = [one for one in (alike, signal.alike[0]) if not math.isnan(one)]
    c = float(np.clip(known[0], -1.0, 1.0)) if known else 1.0
    q = 1.0 if phi.sides is not None else signal.level
    squared = Activation(f"{phi.name} slope", lambda u: phi.slope(u) ** 2, phi.slope, phi.kinks)
    mean = float(moments(phi, q).slope_square)
    return pair_moment(squared, q, c, slope=False) / mean**2 - 1.0 if mean > 0 else 0.0


def _pair(phi: Activation, q: float, c: float) -> float:
    return pair_moment(phi, q, float(np.clip(c, -1.0, 1.0)), slope=False)
