"""What one forward and one backward pass show of a model: the profile that a remedy is to change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from gradscope.at_rest.copies import Loss
from gradscope.at_rest.preflight_step import first_step
from gradscope.errors import GradscopeError
from gradscope.runs import Decay, Run
from gradscope.spec import LayerSpec

METRICS = ("output_grad_norm", "sample_spread")
"""What is compared layer by layer."""
ALLOWED = 1.0
"""Decades between first and last hidden layer that the checks of vanishing and exploding do not complain of."""
SHARES = ("dead_fraction", "saturation", "output_grad_zero_fraction", "fp16_underflow_fraction")
"""What is compared by the layer that has most of it."""
UNKNOWN = Decay(math.nan, math.nan, math.nan, math.nan, 0)
ALONE = Decay(math.nan, math.nan, math.nan, 0.0, 1)
"""Of a single hidden layer, between which and the last one nothing is lost."""
CAP = 45.0
"""Decades between 1 and the least float32: what a zero, or a value that is not finite, counts as."""


@dataclass(frozen=True)
class Profile:
    """Gradient and spread between samples over depth, at one step.

    Attributes:
        values: By metric of `METRICS`, a series over depth.
        decay: Of the output gradient along the trunk's hidden layers.
        spread_decades: log10 of the spread between samples of the last hidden layer's output over that of the first.
        shares: By metric of `SHARES`, the greatest of all layers; what is not known is left out.
        weight_gradients: Norm of each layer's weight gradient, over depth.
        loss: Of the batch.
        specs: The layers.
    """

    values: Mapping[str, pd.Series[float]]
    decay: Decay
    spread_decades: float
    shares: Mapping[str, float]
    weight_gradients: pd.Series[float]
    loss: float
    specs: tuple[LayerSpec, ...]

    @property
    def lost(self) -> float:
        """Decades between first and last hidden layer: of the gradient on its way back, of the spread on its way up.

        What grows counts like what shrinks: layers differ by it in the speed at which they learn. An exact zero, and
        what is not finite, counts `CAP` decades.
        """
        return capped(self.decay.decades) + capped(self.spread_decades)

    @property
    def excess(self) -> float:
        """Decades lost beyond `ALLOWED` each."""
        return sum(max(capped(one) - ALLOWED, 0.0) for one in (self.decay.decades, self.spread_decades))

    @property
    def hidden(self) -> tuple[LayerSpec, ...]:
        """The layers that others follow."""
        parents = {parent for spec in self.specs for parent in spec.parents}
        return tuple(spec for spec in self.specs if spec.id in parents)


def capped(decades: float) -> float:
    """Return the size of a number of decades, `CAP` at most.

    >>> capped(-4.5), capped(math.nan)
    (4.5, 45.0)
    """
    return CAP if math.isnan(decades) else min(abs(decades), CAP)


def measure(model: nn.Module, x: Any, y: Any, loss_fn: Loss | None, loss_scale: float = 1.0) -> Profile:
    """Measure a model that may be touched; values of gradients are divided by ``loss_scale`` again."""
    with first_step(model, x, y, loss_fn, name="trial", loss_scale=loss_scale) as run:
        gradient = _profile(run, "output_grad_norm") / loss_scale
        spread = _profile(run, "sample_spread")
        hidden = run.trunk[:-1]
        return Profile(
            values={"output_grad_norm": gradient, "sample_spread": spread},
            decay=ALONE if _is_alone(gradient, hidden) else run.decay() if len(gradient) else UNKNOWN,
            spread_decades=0.0 if _is_alone(spread, hidden) else _ratio(spread, hidden),
            shares={name: share for name in SHARES if not math.isnan(share := float(_profile(run, name).max()))},
            weight_gradients=_profile(run, "weight_grad_norm") / loss_scale,
            loss=run.final("loss"),
            specs=run.specs,
        )


def _is_alone(profile: pd.Series[float], path: tuple[int, ...]) -> bool:
    return len(path) == 1 and bool(0.0 < profile.get(path[0], math.nan) < math.inf)


def _ratio(spread: pd.Series[float], path: tuple[int, ...]) -> float:
    """Return log10 of the last value on the path over the first; -inf where it has fallen to 0."""
    on = spread.reindex(list(path)).dropna()
    if len(on) < 2 or not on.iloc[0] > 0.0:
        return math.nan
    with np.errstate(divide="ignore"):
        return float(np.log10(on.iloc[-1] / on.iloc[0]))


def _profile(run: Run, metric: str) -> pd.Series[float]:
    """Return a metric over depth; empty where there is none, such as dead units of fewer than 64 samples."""
    try:
        return run.profile(metric)
    except GradscopeError:
        return pd.Series(dtype="float64")
