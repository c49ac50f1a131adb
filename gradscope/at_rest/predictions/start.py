"""Where the recursion begins: what is measured of the first layer's output, or of what enters the first skip."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gradscope.at_rest.readings.layers import LayerRead
from gradscope.at_rest.readings.model import Reading
from gradscope.theory.geometry import windowed
from gradscope.theory.stages import Pool, Start

Array = NDArray[np.float64]


def measure_start(reading: Reading) -> Start:
    """Return mean square, correlation of samples, and how alike neighbours are that poolings will meet.

    Args:
        reading: The model, with at least one layer.
    """
    first = reading.layers[0]
    tensor = first.output if reading.start is None else reading.start
    values = samples_of(first, tensor)
    positions = first.stage.convolution is not None and values.ndim > 2
    q = values**2
    square = q.mean(axis=(0, 1)) if positions else q.mean()
    steps = first.size if reading.start is None else tuple(values.shape[2:])
    neighbours = tuple(
        _alike_in(values, pool, _stride(steps, reading.layers[place].size)) if positions else math.nan
        for pool, place in _at_own_size(reading)
    )
    return Start(q=np.asarray(square), c=likeness(values), neighbours=neighbours)


def unevenness(reading: Reading) -> float:
    """Return the relative variance between samples of the mean square of the first layer's output; 0 without layers."""
    if not reading.layers:
        return 0.0
    values = samples_of(reading.layers[0], reading.layers[0].output)
    squares = (values.reshape(len(values), -1) ** 2).mean(axis=1)
    return float(squares.var() / squares.mean() ** 2) if squares.mean() > 0 else 0.0


def likeness(values: Array) -> float:
    """Return <z z'> / <z^2> over pairs of different samples, the first dimension; NaN for one sample or zeros.

    >>> round(likeness(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])), 6)
    0.5
    """
    count, total = len(values), float((values**2).sum())
    if count < 2 or not 0.0 < total < math.inf:
        return math.nan
    pairs = float((values.sum(axis=0) ** 2).sum()) - total
    return pairs / (count - 1) / total


def samples_of(layer: LayerRead, tensor: Tensor) -> Array:
    """Return what enters or leaves a layer, samples first; for a linear layer every vector counts as a sample."""
    values = as_array(tensor)
    return values if layer.stage.convolution is not None else values.reshape(-1, values.shape[-1])


def as_array(tensor: Tensor) -> Array:
    """Return the values of a tensor in double precision."""
    return np.asarray(tensor.detach().double().cpu().numpy())


def _at_own_size(reading: Reading) -> list[tuple[Pool, int]]:
    return [(pool, place) for pool, place in reading.pools if place >= 0]


def _stride(full: tuple[int, ...], pooled: tuple[int, ...]) -> tuple[int, ...]:
    """Steps between positions at the first layer that neighbours at a later one stand for."""
    if len(full) != len(pooled):
        return (1,) * len(full)
    return tuple(max(1, round(one / other)) for one, other in zip(full, pooled, strict=True))


def _alike_in(values: Array, pool: Pool, stride: tuple[int, ...]) -> float:
    """Return the mean correlation of different positions in windows of every ``stride``-th position."""
    moved = np.moveaxis(values, (0, 1), (-2, -1))[tuple(slice(None, None, step) for step in stride)]
    count = math.prod(pool.window)
    if len(stride) != len(pool.window) or any(a < b for a, b in zip(moved.shape, pool.window, strict=False)):
        return math.nan
    level = float(windowed(moved**2, pool.window).mean())
    of_mean = float((windowed(moved, pool.window) ** 2).mean())
    # E (mean of n)^2 = q (1 + (n - 1) r) / n
    return (count * of_mean / level - 1.0) / (count - 1) if level > 0 and count > 1 else math.nan
