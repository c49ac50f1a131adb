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
    elsewhere = _elsewhere(values) if positions else np.asarray(math.nan)
    return Start(
        q=np.asarray(square), c=likeness(values), neighbours=neighbours, elsewhere=elsewhere, unequal=_unequal(values)
    )


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


def _elsewhere(values: Array) -> Array:
    """Return, per position p, <z_p z_p'> / <z^2> over pairs of different samples and all positions p' of the other."""
    count, places = len(values), values.reshape(*values.shape[:2], -1)
    if count < 2 or not values.any():
        return np.full(values.shape[2:], np.nan)
    means = places.mean(axis=2)
    pairs = np.einsum("cp,c->p", places.sum(axis=0), means.sum(axis=0)) - np.einsum("scp,sc->p", places, means)
    found = pairs / (count * (count - 1) * values.shape[1] * (values**2).mean())
    return np.asarray(found.reshape(values.shape[2:]))


def _unequal(values: Array) -> float:
    """Return the mean over units of 1 / variance, times the mean variance, over samples and positions."""
    variance = np.moveaxis(values, 1, 0).reshape(values.shape[1], -1).var(axis=1)
    # A unit that does not vary passes no gradient.
    variance = variance[variance > 1e-6 * variance.mean()]
    return float(variance.mean() * (1.0 / variance).mean()) if len(variance) else 1.0


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
    """Return the mean correlation of positions in one window, but not in one block of ``stride`` positions."""
    moved = np.moveaxis(values, (0, 1), (-2, -1))
    count = math.prod(pool.window)
    whole = tuple(step * width for step, width in zip(stride, pool.window, strict=False))
    if len(stride) != len(pool.window) or any(a < b for a, b in zip(moved.shape, whole, strict=False)):
        return math.nan
    level = float(windowed(moved**2, whole).mean())
    blocks = float((windowed(windowed(moved, stride), pool.window) ** 2).mean())
    own = float(windowed(windowed(moved, stride) ** 2, pool.window).mean())
    # E (mean of n blocks)^2 = (E block^2 + (n - 1) q r) / n
    return (count * blocks - own) / (count - 1) / level if level > 0 and count > 1 else math.nan
