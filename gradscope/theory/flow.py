"""What a gradient goes through on its way back: factors of its energy, and how much single networks scatter.

The energy at a place is the sum over units of the mean square of the gradient; of a convolution, one entry per
position. It is kept as shares that sum to 1 and the logarithm of the total, so that no depth underflows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Flow:
    """Energy of the gradient at one place.

    Attributes:
        share: Shares of the positions; one number, 1, where there are none.
        log: ln of the total relative to the last stage.
        dense: Variance of `log` between initializations that all positions have in common.
        local: Variance of one spatial mode, which the sum over modes averages.
        units: Energies of units relative to their mean, row by row those of the forward sample; None where weights have
            just mixed all units.
    """

    share: Array
    log: float = 0.0
    dense: float = 0.0
    local: float = 0.0
    units: Array | None = None

    @property
    def variance(self) -> float:
        """Variance of ln of the total: modes of like, independent log-normal energies are summed."""
        positions = self.share.size
        if positions == 1 or self.local == 0.0:
            return self.dense + self.local
        return self.dense + math.log1p(math.expm1(min(self.local, 600.0)) / positions)

    def scaled(self, energy: Array) -> Flow:
        """Return the flow with `energy` in place of its shares, renormalized."""
        total = float(np.sum(energy))
        if total == 0.0:
            return replace(self, share=np.full_like(energy, 1.0 / energy.size), log=-math.inf)
        return replace(self, share=energy / total, log=self.log + math.log(total))

    def noisier(self, variance: float) -> Flow:
        """Return the flow with the scatter of one more random factor."""
        if self.share.ndim:
            return replace(self, local=self.local + variance)
        return replace(self, dense=self.dense + variance)


class Back(Protocol):
    """One thing that the gradient passes on its way back."""

    def back(self, flow: Flow, seen: dict[int, Flow]) -> Flow:
        """Return the flow in front of it; stages write theirs into `seen`."""


@dataclass(frozen=True)
class Mark:
    """The output z of a stage, where its gradient is read off."""

    index: int

    def back(self, flow: Flow, seen: dict[int, Flow]) -> Flow:
        """Note the flow."""
        seen[self.index] = flow
        return flow


@dataclass(frozen=True)
class Gain:
    """An activation or a normalization: a factor per position, and the scatter that it adds.

    Attributes:
        factor: Of the energy.
        noise: Variance added where there are no positions, or of one spatial mode.
        shared: Variance that all positions have in common.
        units: Factors of units relative to their mean; None where they are all alike.
    """

    factor: Array
    noise: float = 0.0
    shared: float = 0.0
    units: Array | None = None

    def back(self, flow: Flow, seen: dict[int, Flow]) -> Flow:
        """Multiply the energy."""
        scaled = flow.scaled(flow.share * self.factor).noisier(self.noise)
        return weighted(replace(scaled, dense=scaled.dense + self.shared), self.units)


@dataclass(frozen=True)
class Dense:
    """Weights of a dense layer, whose input may have positions: each gets an equal share."""

    weight_var: float
    shape: tuple[int, ...]
    noise: float

    def back(self, flow: Flow, seen: dict[int, Flow]) -> Flow:
        """Spread the energy over the input."""
        energy = np.full(self.shape, self.weight_var / math.prod(self.shape))
        noisy = replace(flow, share=np.asarray(1.0), dense=flow.variance + self.noise, local=0.0, units=None)
        return noisy.scaled(energy)


@dataclass(frozen=True)
class Box:
    """Weights of a convolution: the transpose of its averaging over taps, per axis."""

    weight_var: float
    filters: tuple[Array, ...]
    noise: float

    def back(self, flow: Flow, seen: dict[int, Flow]) -> Flow:
        """Send the energy back through the taps."""
        transposed = [one.T for one in self.filters]
        return (
            replace(flow, units=None).scaled(self.weight_var * along_axes(transposed, flow.share)).noisier(self.noise)
        )


@dataclass(frozen=True)
class Unpool:
    """A pooling: every position of a window gets the same part, `factor` of the window's energy together."""

    shape: tuple[int, ...]
    window: tuple[int, ...]
    factor: Array

    def back(self, flow: Flow, seen: dict[int, Flow]) -> Flow:
        """Spread the energy of every window over its positions; what no window covers gets nothing."""
        energy = flow.share * self.factor / math.prod(self.window)
        for axis, width in enumerate(self.window):
            energy = np.repeat(energy, width, axis=axis)
        rest = [(0, full - part) for full, part in zip(self.shape, energy.shape, strict=True)]
        return flow.scaled(np.pad(energy, rest))


@dataclass(frozen=True)
class Join:
    """A sum of two paths, that start at one place: their energies add."""

    branch: tuple[Back, ...]
    shortcut: tuple[Back, ...]
    scale: float
    width: int

    def back(self, flow: Flow, seen: dict[int, Flow]) -> Flow:
        """Add what both paths send back; independent weights make the cross term zero on average, not its scatter."""
        over = through(self.shortcut, flow, seen)
        own = through(self.branch, replace(flow, log=flow.log + 2.0 * math.log(abs(self.scale) or 1e-300)), seen)
        top = max(over.log, own.log)
        if top == -math.inf:
            return over
        skip, branch = math.exp(over.log - top), math.exp(own.log - top)
        part = branch / (skip + branch)
        cross = 4.0 * part * (1.0 - part) / self.width if self.width else 0.0
        joined = replace(
            over,
            log=top,
            dense=_mixed(flow.dense, over.dense, own.dense, part),
            local=_mixed(flow.local, over.local, own.local, part),
            units=_both(over.units, own.units, part),
        )
        return joined.scaled(skip * over.share + branch * own.share).noisier(cross)


def weighted(flow: Flow, factors: Array | None) -> Flow:
    """Multiply the energies of units by factors of mean 1: where both are large at the same units, their sum grows."""
    if factors is None:
        return flow
    units = factors if flow.units is None else factors * flow.units
    mean = float(np.mean(units))
    if mean == 0.0:
        return replace(flow, log=-math.inf)
    return replace(flow, log=flow.log + math.log(mean), units=units / mean)


def through(path: Sequence[Back], flow: Flow, seen: dict[int, Flow]) -> Flow:
    """Send a flow back along a path, last element first."""
    for one in reversed(path):
        flow = one.back(flow, seen)
    return flow


def along_axes(filters: Sequence[Array], values: Array) -> Array:
    """Apply one matrix per axis."""
    for axis, one in enumerate(filters):
        values = np.moveaxis(np.tensordot(one, values, axes=(1, axis)), 0, axis)
    return values


def _both(over: Array | None, own: Array | None, part: float) -> Array | None:
    """Relative energies of units of a sum; a path that mixed all units brings the same to each."""
    if over is None and own is None:
        return None
    even = np.ones(1)
    both: Array = (1.0 - part) * (even if over is None else over) + part * (even if own is None else own)
    return both


def _mixed(common: float, over: float, own: float, part: float) -> float:
    """Variance of ln of a sum of which `part` came through the branch; what both have in common counts in full."""
    return common + (1.0 - part) ** 2 * max(over - common, 0.0) + part**2 * max(own - common, 0.0)
