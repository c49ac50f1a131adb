"""Like samples have like targets: what that adds to the gradient of a weight, over pairs as like as any other."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gradscope.at_rest.predictions.coherence import Network
from gradscope.at_rest.predictions.start import likeness, samples_of
from gradscope.at_rest.readings.model import Reading
from gradscope.theory import propagate
from gradscope.theory.stages import Level, Residual, Stage, Start

Array = NDArray[np.float64]
_STEP = 0.01


def covariance(reading: Reading, gradients: Array) -> float:
    """Return the covariance, over pairs of samples, of <d_i, d_j> / |d|^2 and <z_i, z_j> / q where the network begins.

    Args:
        reading: The model.
        gradients: d, one row per sample.

    Returns:
        0 where the beginning has other samples.
    """
    first = reading.layers[0]
    values = samples_of(first, first.output if reading.start is None else reading.start)
    rows = values.reshape(len(values), -1)
    if len(rows) != len(gradients) or len(rows) < 2 or not (rows.any() and gradients.any()):
        return 0.0
    products = []
    for one in (gradients, rows):
        gram = one @ one.T / np.mean(np.sum(one**2, axis=1))
        gram -= likeness(one)
        np.fill_diagonal(gram, 0.0)
        products.append(gram)
    return float(np.sum(products[0] * products[1])) / (len(rows) * (len(rows) - 1))


def responses(network: Network, levels: tuple[Level, ...], start: Start) -> dict[str, float]:
    """Return dc / dc_1, how far the correlation at a stage follows that at the beginning, by the name of the stage.

    Only of dense layers without a normalization over the batch, which takes away what samples have in common.
    """
    if math.isnan(start.c) or not _is_dense(network):
        return {}
    step = -_STEP if start.c > 1.0 - _STEP else _STEP
    moved = propagate(network, replace(start, c=start.c + step))
    return {one.name: (other.c - one.c) / step for one, other in zip(levels, moved, strict=True) if one.name}


def _is_dense(network: Network) -> bool:
    for one in network:
        parts = (*one.branch, *one.shortcut) if isinstance(one, Residual) else ()
        batch = "batch" in ((one.before_norm, one.norm) if isinstance(one, Residual) else (one.norm,))
        if batch or (isinstance(one, Stage) and one.convolution is not None) or not _is_dense(parts):
            return False
    return True
