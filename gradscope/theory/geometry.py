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
from gradscope.theory.units import moved

Array = NDArray[np.float64]
MODES = ("zeros", "circular")
_MANY = 48
_LEAST = 1e-6
_DRAWS = 65536
NO_NEIGHBOURS = (
    "what a pooling leaves depends on how alike neighbouring positions are, which the start does not say (neighbours=)"
)
LIKE_MEANS = "approximate: how alike the positions of a mean pooling are is taken from the first layer"
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
    # Two positions have the taps in common that lie inside for both.
    both = along_axes(box_filters(shape, both=True), np.ones(inside))
    shared = stage.weight_var * signal.alike[1] * signal.level * both + stage.bias_var
    elsewhere = float(np.mean(shared))
    near = [_common_taps(shape, signal.windows[: place + 1]) for place in range(len(alike) - 2)]
    alike = (alike[0], elsewhere / level if level > 0 else math.nan, *map(math.prod, zip(alike[2:], near, strict=True)))
    edge = shared / elsewhere if elsewhere > 0 else None
    noise = weight_noise(signal, signal.width, orthogonal=stage.orthogonal)
    passed = replace(signal, q=q, alike=alike, mean=0.0, edge=edge, units=None, width=stage.fan_out)
    return passed, Box(stage.weight_var, filters, noise)


def box_filters(shape: Convolution, *, both: bool = False) -> tuple[Array, ...]:
    """Return, per axis, the matrix (outputs x inputs) that averages over taps; rows at an edge sum to less than 1.

    Args:
        shape: The convolution.
        both: Whether taps count only as far as they lie inside for another output as well, any of all.

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
        _filter(*sides, circular=shape.mode == "circular", delta=shape.delta, both=both)
        for sides in zip(shape.size, shape.kernel, shape.padding, stride, dilation, strict=True)
    )


def _common_taps(shape: Convolution, windows: tuple[tuple[int, ...], ...]) -> float:
    """Return the taps that lie inside for both of two outputs, relative to those that do for one, on average.

    The outputs are such as the last of `windows` brings together, and none of those before.
    """
    axes = len(shape.size)
    if not windows or any(len(one) != axes for one in windows):
        return 1.0
    sums = np.zeros((2, 2, axes))
    for axis, filters in enumerate(_tap_masks(shape)):
        block = math.prod(one[axis] for one in windows[:-1])
        outputs = filters.shape[1]
        if block * windows[-1][axis] > outputs:
            return 1.0
        for at, size in enumerate((block * windows[-1][axis], block)):
            whole = filters[:, : outputs // size * size].reshape(len(filters), -1, size).sum(axis=2)
            sums[0, at, axis], sums[1, at, axis] = float((whole**2).sum()), whole.shape[1] * size**2
    both, pairs = (float(np.prod(one[0]) - np.prod(one[1])) for one in sums)
    alone = math.prod(float((one**2).sum(axis=0).mean()) for one in _tap_masks(shape))
    return both / pairs / alone if pairs > 0 and alone > 0 else 1.0


def _tap_masks(shape: Convolution) -> list[Array]:
    """Return, per axis, which taps (rows) lie inside for which output (columns), together 1 for an output inside."""
    ones = box_filters(shape)
    if shape.mode == "circular" or shape.delta:
        return [np.ones((1, len(one))) for one in ones]
    axes = len(shape.size)
    steps, dilations = shape.stride or (1,) * axes, shape.dilation or (1,) * axes
    found = []
    sides = zip(ones, shape.size, shape.kernel, shape.padding, steps, dilations, strict=True)
    for one, size, kernel, padding, stride, dilation in sides:
        places = np.arange(len(one)) * stride - padding + np.arange(kernel)[:, None] * dilation
        found.append(((places >= 0) & (places < size)) / math.sqrt(kernel))
    return found


def leaked(shape: Convolution, q: float, bias_var: float) -> Array:
    """Return mean square `q` spread over the outputs of a convolution as an input even in space would leave it."""
    even = along_axes(box_filters(shape), np.ones(shape.size))
    return bias_var + (q - bias_var) * even / float(np.mean(even)) if q > bias_var else np.full(even.shape, q)


@lru_cache(maxsize=256)
def _filter(
    size: int, kernel: int, padding: int, stride: int, dilation: int, *, circular: bool, delta: bool, both: bool
) -> Array:
    outputs = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    if outputs < 1 or size < 1:
        raise InvalidValueError(f"a kernel of {kernel} taps leaves nothing of {size} positions")
    matrix = np.zeros((outputs, size))
    taps = [kernel // 2] if delta else range(kernel)
    for tap in taps:
        places = np.arange(outputs) * stride - padding + tap * dilation
        inside = np.full(outputs, True) if circular else (places >= 0) & (places < size)
        share = float(np.mean(inside)) if both else 1.0
        np.add.at(matrix, (np.flatnonzero(inside), places[inside] % size), share / len(taps))
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
    signal = replace(signal, windows=signal.windows[1:])
    if len(signal.alike) < 3 or math.isnan(signal.alike[2]):
        return _unknown(signal, before)
    left = max((1.0 + (count - 1) * signal.alike[2]) / count, _LEAST)
    alike = tuple(min(one / left, 1.0) for one in (_across(signal.alike, count), *signal.alike[1:2], *signal.alike[3:]))
    units = None if signal.units is None else moved(signal.units, signal.mean, signal.level * left)
    return replace(signal, q=before * left, alike=alike, units=units).noted(LIKE_MEANS)


def _across(alike: tuple[float, ...], count: int) -> float:
    """Mean of <a_p a_p'> over a window of two samples, between that at one position and that elsewhere."""
    same, near = alike[0], alike[2]
    least = min(near, alike[1])
    if math.isnan(least) or least >= 1.0:
        return same
    lag = least + (same - least) * (near - least) / (1.0 - least)
    return (same + (count - 1) * lag) / count


def _max_pool(signal: Signal, response: Response, phi: Activation, how: Pool) -> tuple[Signal, list[Back]]:
    """The largest of n equally correlated normal variables stands for a window; it alone gets a gradient."""
    before, count = windowed(signal.q, how.window), math.prod(how.window)
    known = len(signal.alike) > 2 and not math.isnan(signal.alike[2])
    part = min(signal.mean**2 / signal.level, 1.0) if signal.level > 0 else 0.0
    # Of the correlations, the mean is no part of what varies.
    centred = [(one - part) / (1.0 - part) if part < 1.0 else 1.0 for one in signal.alike]
    common = min(max(centred[2], 0.0), 1.0) if known else 0.0
    if not known:
        unknown = np.full(before.shape, np.nan)
        slope = np.ones(before.shape) if phi.name == "identity" else unknown
        return _unknown(response.signal, before), [Unpool(signal.q.shape, how.window, slope)]
    share = math.copysign(part, signal.mean)
    mean, square, slope = _of_maximum(phi, before, share, common, count)
    level = float(np.mean(square))
    alike = tuple(
        _alike_maxima(phi, float(np.mean(before)), share, common, count, one) for one in (*centred[:2], *centred[3:])
    )
    noise = response.back.noise if isinstance(response.back, Gain) else 0.0
    units = response.signal.units
    units = None if units is None else moved(units, float(np.mean(mean)), level)
    pooled = replace(response.signal, q=square, alike=alike, mean=float(np.mean(mean)), units=units, edge=None)
    pooled = replace(pooled, windows=signal.windows[1:]).noted(LIKE_MAXIMA)
    return pooled, [Gain(np.ones(signal.q.shape), noise), Unpool(signal.q.shape, how.window, slope)]


def windowed(q: Array, window: tuple[int, ...]) -> Array:
    """Average over windows that do not overlap; what no window covers is left out."""
    for axis, width in enumerate(window):
        count = q.shape[axis] // width
        kept = np.take(q, range(count * width), axis=axis)
        split = kept.reshape(*kept.shape[:axis], count, width, *kept.shape[axis + 1 :])
        q = split.mean(axis=axis + 1)
    return q


def _of_maximum(phi: Activation, q: Array, part: float, common: float, count: int) -> tuple[Array, Array, Array]:
    """E phi, E phi^2 and E phi'^2 at the largest of `count` variables m + s (sqrt(r) Z_0 + sqrt(1 - r) Z_i).

    m^2 = |part| q with the sign of `part`, s^2 = q - m^2, r = `common`.
    """
    nodes, weight = even_normal()
    order = weight * count * ndtr(nodes) ** (count - 1)
    u = math.sqrt(common) * nodes[:, None] + math.sqrt(1.0 - common) * nodes
    u = math.copysign(math.sqrt(abs(part)), part) + math.sqrt(1.0 - abs(part)) * u
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


def _alike_maxima(phi: Activation, q: float, part: float, common: float, count: int, c: float) -> float:
    """Return the correlation of phi at the maxima of two windows whose positions are correlated by `c`, one by one.

    Maxima differ by as much as the variables at their place, though these vary more than maxima do: so that what is
    nearly alike gets less so. By a sample, since there is no formula for more than two; the same one every time.
    """
    if math.isnan(c):
        return math.nan
    c = min(max(c, 0.0), 1.0)
    rows = max(256, _DRAWS // count)
    first, other = np.random.default_rng(count).standard_normal((2, rows, count + 1))
    maxima = []
    for normal in (first, c * first + math.sqrt((1.0 - c) * (1.0 + c)) * other):
        largest = math.sqrt(common) * normal[:, 0] + math.sqrt(1.0 - common) * normal[:, 1:].max(axis=1)
        u = math.copysign(math.sqrt(abs(part)), part) + math.sqrt(1.0 - abs(part)) * largest
        maxima.append(phi.phi(math.sqrt(max(q, 0.0)) * u))
    level = float(np.mean(maxima[0] ** 2 + maxima[1] ** 2))
    return 1.0 - float(np.mean((maxima[0] - maxima[1]) ** 2)) / level if level > 0 else math.nan


def _unknown(signal: Signal, before: Array) -> Signal:
    alike = (math.nan,) * max(2, len(signal.alike) - 1)
    return replace(
        signal, q=np.full(before.shape, np.nan), alike=alike, mean=math.nan, blocked=signal.blocked or NO_NEIGHBOURS
    )
