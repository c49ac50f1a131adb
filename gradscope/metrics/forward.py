"""What flows forward: the output z of a layer, over all entries and between samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradscope.metrics.registry import metric
from gradscope.signals import Moments


@metric(label="Output mean", group="forward", degree=1, formula="mean(z)")
def output_mean(output_moments: Moments) -> NDArray[np.float64]:
    """Mean of the layer's output z over samples and units."""
    return output_moments.mean


@metric(
    label="Output standard deviation",
    group="forward",
    scale="log",
    bounds=(0.0, None),
    degree=1,
    formula="std(z)",
)
def output_std(output_moments: Moments) -> NDArray[np.float64]:
    """Standard deviation of z over samples and units together (divisor: number of entries)."""
    return output_moments.std


@metric(
    label="Output RMS",
    group="forward",
    scale="log",
    bounds=(0.0, None),
    degree=1,
    formula="|z| / sqrt(numel)",
)
def output_rms(output_moments: Moments) -> NDArray[np.float64]:
    """Root mean square of z; its square is the q of mean-field theory."""
    return output_moments.rms


@metric(
    label="Between-sample spread",
    group="forward",
    scale="log",
    bounds=(0.0, None),
    degree=1,
    parameters={"sample": "whole units, at some positions, about 8192 entries"},
    formula="mean over units of std over samples of z",
)
def sample_spread(output_spread: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far the layer still tells samples apart: mean over units of the standard deviation over samples.

    Divisor N - 1, every position of a convolution on its own. Near zero against output_std: all samples look the same
    from here on. Null for a single sample. Of complex outputs, the real and imaginary parts of a unit are two columns:
    all statistics take complex numbers as pairs of real ones.
    """
    return output_spread
