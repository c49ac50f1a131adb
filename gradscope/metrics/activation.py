"""What the activation function does: its values, its slope, saturation and dead units.

All of them are properties of u, what the activation function receives, and of phi. Null where there is no activation
function or it was not recognised.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradscope.metrics.registry import metric
from gradscope.signals import FLAT, Moments

SAMPLE = {"sample": "odd stride, at least 16384 entries"}


@metric(label="Activation mean", group="activation", formula="mean(phi(u))")
def activation_mean(activation_moments: Moments) -> NDArray[np.float64]:
    """Mean of phi(u) over samples and units."""
    return activation_moments.mean


@metric(
    label="Activation standard deviation",
    group="activation",
    scale="log",
    bounds=(0.0, None),
    formula="std(phi(u))",
)
def activation_std(activation_moments: Moments) -> NDArray[np.float64]:
    """Standard deviation of phi(u) over samples and units together (divisor: number of entries)."""
    return activation_moments.std


@metric(
    label="Zero fraction of the activation",
    unit="fraction",
    group="activation",
    bounds=(0.0, 1.0),
    dtype="float32",
    parameters=SAMPLE,
    formula="share of phi(u) == 0",
)
def zero_fraction(activation_zeros: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of entries of phi(u) that are exactly zero; about one half for a healthy ReLU."""
    return activation_zeros


@metric(
    label="Saturation",
    unit="fraction",
    group="activation",
    bounds=(0.0, 1.0),
    dtype="float32",
    parameters={**SAMPLE, "threshold": FLAT},
    formula="share of |phi'(u)| < 0.01 max phi'",
)
def saturation(slope_small: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of entries where the activation function is flat: |phi'(u)| strictly below 1 % of its maximum.

    Sigmoid: |u| > 5.99; tanh: |u| > 2.99. For a phi that is flat on one side only (ReLU) this is the inactive share and
    no sign of illness.
    """
    return slope_small


@metric(
    label="RMS slope",
    group="activation",
    scale="log",
    bounds=(0.0, None),
    combine="rms",
    dtype="float32",
    parameters=SAMPLE,
    formula="sqrt(mean(phi'(u)^2))",
    source="Schoenholz et al. 2017: chi = sigma_w^2 E[phi'(u)^2]",
)
def slope_rms(slope_power: NDArray[np.float64]) -> NDArray[np.float64]:
    """Root mean square of phi'(u): the factor by which the activation function scales a random error signal."""
    return np.asarray(np.sqrt(slope_power))


@metric(
    label="Dead units",
    unit="fraction",
    group="activation",
    bounds=(0.0, 1.0),
    dtype="float32",
    parameters={"sample": "whole units, at least 16", "samples": 64},
    formula="share of units with phi'(u) == 0 on every one of at least 64 samples",
)
def dead_fraction(dead_units: NDArray[np.bool_]) -> float:
    """Share of units (channels) that let no gradient through on any of at least 64 samples.

    The samples are gathered over the last recorded steps; null until there are 64. A healthy unit that is active half
    the time looks dead with probability 2^-64.
    """
    return float(np.mean(dead_units))
