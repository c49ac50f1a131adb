"""Convolutions and poolings: what they make of the mean square at every position, and of its gradient."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from gradscope.errors import InvalidValueError
from gradscope.theory.expectations import even_normal
from gradscope.theory.flow import Back, Box, Gain, Unpool, along_axes
from gradscope.theory.functions import Activation
from gradscope.theory.response import Response, weight_noise
from gradscope.theory.signal import Signal
from gradscope.theory.stages import Convolution, Pool, Stage

Array = NDArray[np.float64]
MODES = ("zeros", "circular")
_MANY = 48
NO_NEIGHBOURS = (
    "what a pooling leaves depends on how alike neighbouring positions are, which the start does not say (neighbours=)"
)
LIKE_MAXIMA = "approximate: of max pooling, the positions of a window are taken to be equally correlated"


def convolve(signal: Signal, stage: Stage) -> tuple[Signal, Back]:
    """Apply a convolution: q_z = sigma_w^2 A q + sigma_b^2 with A the average over taps, zero beyond the edge."""
    shape = stage.convolution
    assert shape is not None
    filters = box_filters(shape)
    inside = tuple(one.shape[1] for one in filters)
    if signal.q.shape not in ((), inside):
        raise InvalidValueError(
            f"convolution {stage.name!r} reads positions {inside}, but what enters has positions {signal.q.shape}"
        )
    entering = np.broadcast_to(signal.q, inside)
    averaged = along_axes(filters, np.asarray(entering))
    q = stage.weight_var * averaged + stage.bias_var
    part = stage.weight_var * float(np.mean(averaged))
    level = float(np.mean(q))
    alike = tuple((one * part + stage.bias_var) / level if level > 0 else math.nan for one in signal.alike)
    noise = weight_noise(signal, signal.width, orthogonal=stage.orthogonal)
    passed = replace(signal, q=q, alike=alike, mean=0.0, units=None, width=stage.fan_out)
    return passed, Box(stage.weight_var, filters, noise)


def box_filters(shape: Convolution) -> tuple[Array, ...]:
    """Return, per axis, the matrix (outputs x inputs) that averages over taps; rows at an edge sum to less than 1.

    Raises:
        InvalidValueError: Lengths differ, the mode is not one of `MODES`, or nothing is left of an axis.

    >>> box_filters(Convolution(size=(3,), kernel=(3,), padding=(1,)))[0].sum(axis=1).round(3).tolist()
    [0.667, 1.0, 0.667]
    """
    axes = len(shape.size)
    stride, dilation = shape.stride or (1,) * axes, shape.dilation or (1,) * axes
    if not len(shape.kernel) == len(shape.padding) == len(stride) == len(dilation) == axes:
        raise InvalidValueError(f"size, kernel, padding, stride and dilation of {shape} have different lengths")
    if shape.mode not in MODES:
        raise InvalidValueError(f"mode of a convolution is one of {', '.join(MODES)}, not {shape.mode!r}")
    return tuple(
        _filter(*sides, circular=shape.mode == "circular", delta=shape.delta)
        for sides in zip(shape.size, shape.kernel, shape.padding, stride, dilation, strict=True)
    )


def leaked(shape: Convolution, q: float, bias_var: float) -> Array:
    """Return mean square `q` spread over the outputs of a convolution as an input even in space would leave it."""
    even = along_axes(box_filters(shape), np.ones(shape.size))
    return bias_var + (q - bias_var) * even / float(np.mean(even)) if q > bias_var else np.full(even.shape, q)


@lru_cache(maxsize=256)
def _filter(size: int, kernel: int, padding: int, stride: int, dilation: int, *, circular: bool, delta: bool) -> Array:
    outputs = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    if outputs < 1 or size < 1:
        raise InvalidValueError(f"a kernel of {kernel} taps leaves nothing of {size} positions")
    matrix = np.zeros((outputs, size))
    taps = [kernel // 2] if delta else range(kernel)
    for output in range(outputs):
        for tap in taps:
            place = output * stride - padding + tap * dilation
            if circular:
                matrix[output, place % size] += 1.0 / len(taps)
            elif 0 <= place < size:
                matrix[output, place] += 1.0 / len(taps)
    return matrix


def pool(signal: Signal, response: Response, phi: Activation, how: Pool | None) -> tuple[Signal, list[Back]]:
    """Apply activation and pooling; `signal` is what enters the activation, `response` what it makes of it."""
    backs = [response.back] if response.back is not None else []
    if how is None:
        return response.signal, backs
    shape = signal.q.shape
    if len(how.window) != len(shape) or any(full < part for full, part in zip(shape, how.window, strict=True)):
        raise InvalidValueError(f"a pooling over windows {how.window} does not fit positions {shape}")
    if how.kind == "mean":
        return _mean_pool(response.signal, how), [*backs, Unpool(shape, how.window, _pooled_ones(shape, how))]
    return _max_pool(signal, response, phi, how)


def _pooled_ones(shape: tuple[int, ...], how: Pool) -> Array:
    """Every position of a window of n gets 1/n of the gradient: 1/n of its energy in all."""
    outputs = tuple(full // part for full, part in zip(shape, how.window, strict=True))
    return np.full(outputs, 1.0 / math.prod(how.window))


def _mean_pool(signal: Signal, how: Pool) -> Signal:
    before, count = windowed(signal.q, how.window), math.prod(how.window)
    if len(signal.alike) < 2 or math.isnan(signal.alike[1]):
        return _unknown(signal, before)
    left = (1.0 + (count - 1) * signal.alike[1]) / count
    alike = tuple(one / left for one in (signal.alike[0], *signal.alike[2:]))
    return replace(signal, q=before * left, alike=alike)


def _max_pool(signal: Signal, response: Response, phi: Activation, how: Pool) -> tuple[Signal, list[Back]]:
    """The largest of n equally correlated normal variables stands for a window; it alone gets a gradient."""
    before, count = windowed(signal.q, how.window), math.prod(how.window)
    known = len(signal.alike) > 1 and not math.isnan(signal.alike[1])
    common = min(max(signal.alike[1], 0.0), 1.0) if known else 0.0
    if not known:
        unknown = np.full(before.shape, np.nan)
        slope = np.ones(before.shape) if phi.name == "identity" else unknown
        return _unknown(response.signal, before), [Unpool(signal.q.shape, how.window, slope)]
    mean, square, slope = _of_maximum(phi, before, common, count)
    level, part = float(np.mean(square)), float(np.mean(mean)) ** 2
    alike = tuple(
        (part + max(one, 0.0) * (level - part)) / level if level > 0 else math.nan
        for one in (signal.alike[0], *signal.alike[2:])
    )
    noise = response.back.noise if isinstance(response.back, Gain) else 0.0
    pooled = replace(response.signal, q=square, alike=alike, mean=float(np.mean(mean))).noted(LIKE_MAXIMA)
    return pooled, [Gain(np.ones(signal.q.shape), noise), Unpool(signal.q.shape, how.window, slope)]


def windowed(q: Array, window: tuple[int, ...]) -> Array:
    """Average over windows that do not overlap; what no window covers is left out."""
    for axis, width in enumerate(window):
        count = q.shape[axis] // width
        kept = np.take(q, range(count * width), axis=axis)
        split = kept.reshape(*kept.shape[:axis], count, width, *kept.shape[axis + 1 :])
        q = split.mean(axis=axis + 1)
    return q


def _of_maximum(phi: Activation, q: Array, common: float, count: int) -> tuple[Array, Array, Array]:
    """E phi, E phi^2 and E phi'^2 at the largest of `count` variables, sqrt(q) (sqrt(r) Z_0 + sqrt(1 - r) Z_i)."""
    nodes, weight = even_normal()
    order = weight * count * ndtr(nodes) ** (count - 1)
    u = math.sqrt(common) * nodes[:, None] + math.sqrt(1.0 - common) * nodes
    distinct, back = np.unique(q.ravel(), return_inverse=True)
    tries = distinct
    if len(distinct) > _MANY:
        tries = np.geomspace(max(distinct[0], distinct[-1] * 1e-12), distinct[-1], _MANY)
    found = np.empty((3, len(tries)))
    for at, one in enumerate(tries):
        value, slope = phi.phi(math.sqrt(one) * u), phi.slope(math.sqrt(one) * u)
        found[:, at] = [float(weight @ (part @ order)) for part in (value, value**2, slope**2)]
    mean, square, slope = (np.interp(distinct, tries, row)[back].reshape(q.shape) for row in found)
    return mean, square, slope


def _unknown(signal: Signal, before: Array) -> Signal:
    alike = (math.nan,) * max(1, len(signal.alike) - 1)
    return replace(
        signal, q=np.full(before.shape, np.nan), alike=alike, mean=math.nan, blocked=signal.blocked or NO_NEIGHBOURS
    )
