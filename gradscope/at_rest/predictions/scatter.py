"""How single networks of this width, on a batch of this size, scatter around the mean field.

All variances are of logarithms of mean squares, to first order in 1 / width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from gradscope.at_rest.predictions.anchor import Anchor
from gradscope.at_rest.predictions.coherence import Network, Place, places, rough_pair
from gradscope.theory.expectations import moments
from gradscope.theory.functions import activation_of
from gradscope.theory.stages import Level, Residual, Stage


@dataclass(frozen=True)
class Scatter:
    """What is known of the scatter at one stage.

    Attributes:
        output: Variance of ln of the mean square of z.
        spread: Variance of ln of the variance over samples of z.
        activation: Variance of ln E phi^2.
        slope: Variance of ln E phi'^2.
        shrinkage: How far the scatter of one sample's gradient survives the mean over the batch, from 0 to 1.
    """

    output: float
    spread: float
    activation: float
    slope: float
    shrinkage: float


SAMPLED = 16384
"""Entries that a probe takes slope_rms of, at least."""
BAND = 1.96
"""Standard deviations of the 95 % band."""
UNKNOWN = Scatter(math.nan, math.nan, math.nan, math.nan, 1.0)
_STEP = 1e-3


@dataclass(frozen=True)
class _Noise:
    """Noise that one activation function adds over one unit.

    Attributes:
        carry: dln E phi^2 / dln q.
        bend: dln E phi'^2 / dln q.
        forward: Relative variance of phi^2, averaged over a batch.
        slope: Relative variance of phi'^2, averaged over a batch.
        sampled: Relative variance of the mean of phi'^2 over the entries that a probe takes of it.
        single: Relative variance of phi'^2 g^2 with a normal g: kappa.
        batch: The same averaged over a batch.
    """

    carry: float = 1.0
    bend: float = 0.0
    forward: float = 0.0
    slope: float = 0.0
    sampled: float = 0.0
    single: float = 2.0
    batch: float = 2.0


@dataclass
class Scattering:
    """Adds up scatter along a network.

    Args:
        network: Stages and skips.
        levels: What theory says of them.
        samples: Size of the batch.
        gradients: Correlation of two samples' gradients, by name of a stage; from ``coherence``.
        anchor: The gradients at the last stage.
        entering: Variance of ln of the mean square where the network begins.
    """

    network: Network
    levels: Sequence[Level]
    samples: int
    gradients: Mapping[str, float]
    anchor: Anchor
    entering: float = 0.0
    _noises: dict[str, _Noise] = field(default_factory=dict)

    def found(self) -> dict[str, Scatter]:
        """Return the scatter of every named stage."""
        before: dict[str, tuple[float, float]] = {}
        self._forward(self.network, self.entering, 0.0, before)
        shrinkage = self._shrinkage()
        found = {}
        for name, (noise, apart) in before.items():
            level, stage = self._levels[name], self._stages[name]
            own = 2.0 * self._mean(level.c**2) / stage.fan_out if stage.fan_out else 0.0
            entering = 0.0 if stage.norm != "none" else noise
            added, width = self._noise(stage), stage.fan_out or math.inf
            found[name] = Scatter(
                output=noise + own,
                spread=noise + own + apart,
                activation=added.carry**2 * entering + added.forward / width,
                slope=added.bend**2 * entering + added.slope / width + added.sampled,
                shrinkage=shrinkage[name],
            )
        return found

    @cached_property
    def _levels(self) -> dict[str, Level]:
        return {level.name: level for level in self.levels if level.name}

    @cached_property
    def _places(self) -> dict[str, Place]:
        return places(self.network, self._levels)

    @cached_property
    def _stages(self) -> dict[str, Stage]:
        return {one.name: one for one in flat(self.network) if one.name}

    def _mean(self, pairs: float) -> float:
        """Mean over all pairs of samples, 1 for a sample and itself."""
        pairs = 1.0 if math.isnan(pairs) else min(max(pairs, 0.0), 1.0)
        return (1.0 + (self.samples - 1) * pairs) / self.samples

    def _forward(
        self, network: Network, noise: float, apart: float, before: dict[str, tuple[float, float]]
    ) -> tuple[float, float]:
        for one in network:
            if isinstance(one, Residual):
                inner = (0.0 if one.before_norm != "none" else noise, apart)
                own = self._forward(one.branch, *inner, before)
                over = self._forward(one.shortcut, noise, apart, before)
                # At most what either path has.
                noise, apart = max(own[0], over[0]), max(own[1], over[1])
                noise = 0.0 if one.norm != "none" else noise
            elif one.name:
                before[one.name] = (noise, apart)
                added, width = self._noise(one), one.fan_out or math.inf
                noise = (0.0 if one.norm != "none" else added.carry**2 * noise) + added.forward / width
                apart += added.single / width
        return noise, apart

    def _shrinkage(self) -> dict[str, float]:
        """Scatter of the batch against scatter of one sample, both summed from the last stage on."""
        single = batch = 0.0
        found: dict[str, float] = {}
        for one in reversed(list(flat(self.network))):
            if not one.name:
                continue
            if found:
                added = self._noise(one)
                single += added.single / (one.fan_out or 1)
                batch += added.batch / (one.fan_out or 1)
            found[one.name] = min(1.0, batch / single) if single > 0 else 1.0
        return found

    def _alike_square(self, name: str) -> float:
        """Mean square, over pairs of samples, of the correlation of their gradients: in proportion to its mean."""
        if not self.anchor.alike or name not in self.gradients:
            return 1.0
        factor = self.gradients[name] / self.anchor.alike
        return min(1.0, factor**2 * self.anchor.alike_square)

    def _noise(self, stage: Stage) -> _Noise:
        if stage.name not in self._noises:
            self._noises[stage.name] = self._find_noise(stage)
        return self._noises[stage.name]

    def _find_noise(self, stage: Stage) -> _Noise:
        phi, at, g = activation_of(stage.activation), self._places[stage.name], self._alike_square(stage.name)
        if math.isnan(at.q):
            return _Noise()
        here, near = moments(phi, at.q), moments(phi, at.q * (1.0 + _STEP))
        square, slope = float(here.square), float(here.slope_square)
        if not (square > 0.0 and slope > 0.0):
            return _Noise(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        length = float(here.fourth) / square**2 - 1.0
        alike = rough_pair(lambda u: phi.phi(u) ** 2, at) / square**2 - 1.0
        fourth = float(here.slope_fourth) / slope**2
        pair = max(rough_pair(lambda u: phi.slope(u) ** 2, at) / slope**2, 1.0)
        single = 3.0 * fourth - 1.0
        crossed = min(max((1.0 + 2.0 * g) * pair - 1.0, 0.0), single)
        return _Noise(
            carry=at.q * float(here.length_slope) / square,
            bend=math.log(float(near.slope_square) / slope) / math.log1p(_STEP),
            slope=max(fourth - 1.0, 0.0) * self._mean((pair - 1.0) / (fourth - 1.0) if fourth > 1.0 else 0.0),
            sampled=max(fourth - 1.0, 0.0) / SAMPLED,
            forward=max(length, 0.0) * self._mean(alike / length if length > 0 else 0.0),
            single=single,
            batch=single * self._mean(crossed / single if single > 0 else 0.0),
        )


def widened(batch: Mapping[str, Scatter], single: Mapping[str, Scatter]) -> dict[str, Scatter]:
    """Return the scatter of a batch with room for what one sample's scatter shifts the mean by, half its variance."""

    def wide(name: str, field: str) -> float:
        one, other = getattr(batch[name], field), getattr(single[name], field)
        return float((math.sqrt(max(one, 0.0)) + other / BAND) ** 2)

    return {
        name: Scatter(
            output=wide(name, "output"),
            spread=wide(name, "spread"),
            activation=wide(name, "activation"),
            slope=wide(name, "slope"),
            shrinkage=one.shrinkage,
        )
        for name, one in batch.items()
    }


def flat(network: Network) -> list[Stage]:
    """Return all stages, of a skip those of the branch before those of the shortcut."""
    found: list[Stage] = []
    for one in network:
        found += [one] if isinstance(one, Stage) else [*flat(one.branch), *flat(one.shortcut)]
    return found
