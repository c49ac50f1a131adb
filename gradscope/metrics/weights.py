"""What the optimizer sees: parameters, their gradients, and what a step changes.

These stand on the row of a layer's first call of the step.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradscope.metrics.numeric import Ratio
from gradscope.metrics.registry import metric
from gradscope.signals import Squares

SAMPLE = {"sample": "odd stride, at least 16384 entries"}


@metric(
    label="Weight gradient norm",
    unit="loss / weight",
    group="weights",
    scale="log",
    bounds=(0.0, None),
    degree=1,
    combine="rss",
    formula="|dL/dW|",
)
def weight_grad_norm(weight_grad_squares: Squares) -> NDArray[np.float64]:
    """Norm of the weight gradient that the optimizer is about to apply (accumulated, averaged, clipped).

    In a ReLU net without biases it is equal in all layers while the error signal vanishes (Du et al. 2018): read it
    beside output_grad_norm. Zero: nothing is learnt. Null: frozen, or not part of the loss.
    """
    return weight_grad_squares.norm


@metric(
    label="Weight gradient norm before clipping",
    unit="loss / weight",
    group="weights",
    scale="log",
    bounds=(0.0, None),
    degree=1,
    combine="rss",
    formula="|dL/dW|",
)
def weight_grad_norm_raw(weight_grad_raw_squares: Squares) -> NDArray[np.float64]:
    """Norm of the accumulated weight gradient as back-propagation left it, before clipping and averaging."""
    return weight_grad_raw_squares.norm


@metric(
    label="Weight gradient RMS",
    unit="loss / weight",
    group="weights",
    scale="log",
    bounds=(0.0, None),
    degree=1,
    formula="|dL/dW| / sqrt(numel)",
)
def weight_grad_rms(weight_grad_squares: Squares) -> NDArray[np.float64]:
    """Root mean square of the weight gradient: comparable between layers of different sizes."""
    return weight_grad_squares.rms


@metric(
    label="Zero fraction of the weight gradient",
    unit="fraction",
    group="weights",
    bounds=(0.0, 1.0),
    degree=0,
    dtype="float32",
    parameters=SAMPLE,
    formula="share of dL/dW == 0",
)
def weight_grad_zero_fraction(weight_grad_zeros: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of entries of the weight gradient that are exactly zero."""
    return weight_grad_zeros


@metric(
    label="Bias gradient norm",
    unit="loss / bias",
    group="weights",
    scale="log",
    bounds=(0.0, None),
    degree=1,
    combine="rss",
    formula="|dL/db|",
)
def bias_grad_norm(bias_grad_squares: Squares) -> NDArray[np.float64]:
    """Norm of the bias gradient that the optimizer is about to apply; null without a bias."""
    return bias_grad_squares.norm


@metric(
    label="Weight RMS",
    group="weights",
    scale="log",
    bounds=(0.0, None),
    degree=1,
    formula="|W| / sqrt(numel)",
)
def weight_rms(weight_squares: Squares) -> NDArray[np.float64]:
    """Root mean square of the weight before the optimizer step."""
    return weight_squares.rms


@metric(
    label="Bias RMS",
    group="weights",
    bounds=(0.0, None),
    degree=1,
    formula="|b| / sqrt(numel)",
)
def bias_rms(bias_squares: Squares) -> NDArray[np.float64]:
    """Root mean square of the bias before the optimizer step; null without a bias."""
    return bias_squares.rms


@metric(
    label="Update / weight ratio",
    group="weights",
    scale="log",
    bounds=(0.0, None),
    dtype="float32",
    parameters=SAMPLE,
    formula="rms(Delta W) / rms(W)",
    source="CS231n, Neural Networks Part 3: about 1e-3 is usual",
)
def update_ratio(weight_update_power: NDArray[np.float64], weight_power: NDArray[np.float64]) -> Ratio:
    """How much the optimizer step changed the weight, relative to it.

    rms(Delta W) / rms(W). Zero: the step changed nothing. Null where the weight was all zero, and without an
    optimizer, since nothing says when the step happens.
    """
    return Ratio(np.sqrt(weight_update_power), np.sqrt(weight_power))
