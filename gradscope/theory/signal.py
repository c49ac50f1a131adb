"""The forward signal between layers, and what normalizations, dropout and sums make of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gradscope.theory.flow import Back, Gain
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
        alike: Correlations <a a'> / <a^2>: of two samples at one position, of two samples at any two positions, then of
            neighbours within the poolings to come.
        edge: Relative size, per position, of what it has in common with the others, where zeros have been padded; None
            where it is the same everywhere.
        mean: Mean over units of a sample.
        units: A sample of units, of mean square 1, for two inputs; None where they are normally distributed.
        sampling: Whether samples are drawn at all: only behind a sum are units neither normal nor mixed by weights.
        draw: Number of samples drawn so far.
        width: Units or channels; 0 is infinitely many.
        windows: Of the poolings to come.
        samples: Samples of the batch.
        rank: Of their gradients; see `Start`.
        notes: What was assumed so far.
        blocked: Why nothing more can be said of q.
    """

    q: Array
    alike: tuple[float, ...]
    mean: float = 0.0
    edge: Array | None = None
    units: Array | None = None
    sampling: bool = False
    draw: int = 0
    width: int = 0
    windows: tuple[tuple[int, ...], ...] = ()
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


def normalize(signal: Signal, norm: str, eps: float) -> tuple[Signal, Back | None]:
    """Apply batch or layer normalization with weight 1 and bias 0; the gradient is divided by the variance."""
    if norm == "none":
        return signal, None
    level = signal.level
    if norm == "batch":
        signal = signal if signal.units is None else replace(signal, units=None).noted(NOT_NORMAL)
        signal, common = _common(signal)
    else:
        common = signal.mean**2
    factor = 1.0 / (max(level - common, 0.0) + eps)
    left = level - common
    alike = tuple((one * level - common) / left if left > 0 else math.nan for one in signal.alike)
    if norm == "batch":
        alike = (alike[0] if signal.q.ndim and alike[0] == alike[0] else 0.0, 0.0, *alike[2:])
    edge = 1.0 if signal.edge is None or norm != "batch" else 2.0 * signal.edge - 1.0
    rest = np.maximum(signal.q - common * edge, 0.0)
    # What is cut off at 0 is to be nothing on the whole.
    q = rest * (factor * max(left, 0.0) / float(np.mean(rest))) if np.mean(rest) > 0.0 else rest
    sample = signal.units
    if sample is not None:
        sample = unit_scale(np.sqrt(level) * sample - signal.mean)[0]
    normalized = replace(signal, q=q, alike=alike, mean=0.0, edge=None, units=sample)
    # The variance over N units scatters by 2 / N between samples; that over a batch averages out.
    units = signal.width * max(signal.q.size, 1)
    noise = 2.0 / (units * signal.rank) if norm == "layer" and units else 0.0
    return normalized, Gain(np.full_like(signal.q, factor), shared=noise)


def _common(signal: Signal) -> tuple[Signal, float]:
    """Return what a batch, and all positions, have in common: the square of a channel's mean, <z z'> elsewhere."""
    elsewhere = signal.alike[1]
    if math.isnan(elsewhere) and signal.q.ndim and not math.isnan(signal.alike[0]):
        signal, elsewhere = signal.noted(FLAT_PICTURE), signal.alike[0]
    if math.isnan(elsewhere):
        signal = signal.noted(NO_CORRELATION)
        return signal.noted(FLAT_PICTURE) if signal.q.ndim else signal, 0.0
    return signal, elsewhere * signal.level


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
