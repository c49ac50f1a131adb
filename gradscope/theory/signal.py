"""The forward signal between layers, and what layers, normalizations, activations and poolings make of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gradscope.theory.expectations import moments, pair_moment
from gradscope.theory.flow import Back, Gain
from gradscope.theory.functions import Activation
from gradscope.theory.units import apart, normal_units, unit_scale

Array = NDArray[np.float64]
NO_CORRELATION = "approximate: samples are taken to be uncorrelated, since the start says nothing of their correlation"
NOT_NORMAL = "approximate: the input of a batch norm behind an activation is taken to be normally distributed"
FLAT_PICTURE = "approximate: positions are taken to be as alike as different samples are"


@dataclass(frozen=True)
class Signal:
    """The signal at one place.

    Attributes:
        q: Mean square over samples and units; one entry per position where there are positions.
        alike: Correlations <a a'> / <a^2>: of two samples, then of neighbours within the poolings to come.
        mean: Mean over units of a sample.
        units: A sample of units, of mean square 1, for two inputs; None where they are normally distributed.
        sampling: Whether samples are drawn at all: only behind a sum are units neither normal nor mixed by weights.
        draw: Number of samples drawn so far.
        width: Units or channels; 0 is infinitely many.
        samples: Samples of the batch.
        rank: Of their gradients; see `Start`.
        notes: What was assumed so far.
        blocked: Why nothing more can be said of q.
    """

    q: Array
    alike: tuple[float, ...]
    mean: float = 0.0
    units: Array | None = None
    sampling: bool = False
    draw: int = 0
    width: int = 0
    samples: int = 1
    rank: float = 1.0
    notes: tuple[str, ...] = ()
    blocked: str = ""

    @property
    def level(self) -> float:
        """Mean square over positions."""
        return float(np.mean(self.q))

    def noted(self, note: str) -> Signal:
        """Return the signal with one more note, once."""
        return self if note in self.notes else replace(self, notes=(*self.notes, note))


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
    level = float(np.mean(square))
    alike = tuple(_pair(phi, signal.level, one) / level if level > 0 else math.nan for one in signal.alike)
    behind = replace(signal, q=square, alike=alike, mean=float(np.mean(found.mean)))
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


def normalize(signal: Signal, norm: str, eps: float) -> tuple[Signal, Back | None]:
    """Apply batch or layer normalization with weight 1 and bias 0; the gradient is divided by the variance."""
    if norm == "none":
        return signal, None
    level = signal.level
    if norm == "batch":
        # Over a batch, what all samples share is the mean: <z z'> between samples.
        signal = signal if signal.units is None else replace(signal, units=None).noted(NOT_NORMAL)
        common = 0.0 if math.isnan(signal.alike[0]) else signal.alike[0] * level
        signal = signal.noted(NO_CORRELATION) if math.isnan(signal.alike[0]) else signal
        signal = signal.noted(FLAT_PICTURE) if signal.q.ndim else signal
    else:
        common = signal.mean**2
    factor = 1.0 / (max(level - common, 0.0) + eps)
    left = level - common
    alike = tuple((one * level - common) / left if left > 0 else math.nan for one in signal.alike)
    if norm == "batch":
        alike = (0.0, *alike[1:])
    q = np.maximum(signal.q - common, 0.0) * factor
    sample = signal.units
    if sample is not None:
        sample = unit_scale(np.sqrt(level) * sample - signal.mean)[0]
    normalized = replace(signal, q=q, alike=alike, mean=0.0, units=sample)
    # The variance over N units scatters by 2 / N between samples; that over a batch averages out.
    units = signal.width * max(signal.q.size, 1)
    noise = 2.0 / (units * signal.rank) if norm == "layer" and units else 0.0
    return normalized, Gain(np.full_like(signal.q, factor), shared=noise)


def drop(signal: Signal, fraction: float) -> tuple[Signal, Back | None]:
    """Apply dropout in training mode: a fraction is set to zero, the rest grows."""
    if fraction == 0.0:
        return signal, None
    keep = 1.0 - fraction
    thinned = replace(signal, q=signal.q / keep, alike=tuple(one * keep for one in signal.alike))
    return thinned, Gain(np.full_like(signal.q, 1.0 / keep))


def add(over: Signal, own: Signal, scale: float) -> Signal:
    """Add a branch to what came over the skip; fresh weights make the two independent, unit by unit."""
    common = 2.0 * scale * over.mean * own.mean
    q = over.q + scale**2 * own.q + common
    level = float(np.mean(q))
    alike = tuple(
        (a * over.level + scale**2 * b * own.level + common) / level if level > 0 else math.nan
        for a, b in zip(over.alike, own.alike, strict=False)
    )
    joined = replace(
        over,
        q=q,
        alike=alike,
        mean=over.mean + scale * own.mean,
        units=_summed(over, own, scale),
        draw=max(over.draw, own.draw) + 2,
        blocked=over.blocked or own.blocked,
    )
    for note in own.notes:
        joined = joined.noted(note)
    return joined


def _summed(over: Signal, own: Signal, scale: float) -> Array | None:
    if over.units is None and own.units is None:
        return None
    draw = max(over.draw, own.draw)
    both = [
        normal_units(one.alike[0], draw + place) if one.units is None else one.units
        for place, one in enumerate((over, own))
    ]
    sizes = [math.sqrt(one.level) if one.level >= 0.0 else math.nan for one in (over, own)]
    values = sizes[0] * both[0] + scale * sizes[1] * apart(both[1], both[0])
    return unit_scale(values)[0]


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
        return spread * more / signal.width, _in_common(signal, phi, signal.alike[-1]) / signal.width
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
