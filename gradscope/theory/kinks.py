"""Where the derivative of a function jumps, and a numerical derivative that does not look across."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gradscope.errors import InvalidTypeError, InvalidValueError

Array = NDArray[np.float64]
Function = Callable[[Array], Array]

REACH = 32.0
_STEP = 1.0 / 64.0
_FINEST = 2.0**-26
_SMALLEST = 1e-3
"""Jump of the derivative, relative to the largest difference quotient, below which there is no kink."""
_H = 2.0**-13
"""Step of the numerical derivative: with four points, errors are of order h^4 and 1e-16 / h."""


def find_kinks(phi: Function) -> tuple[float, ...]:
    """Find where the derivative of `phi` jumps between -32 and 32.

    Second differences |phi(u+h) - 2 phi(u) + phi(u-h)| / h vanish with h where phi is smooth and stay at a kink.

    Raises:
        InvalidTypeError: `phi` does not take an array.
        InvalidValueError: `phi` itself jumps, or returns something else than one number per entry.

    >>> find_kinks(np.abs), find_kinks(np.tanh)
    ((0.0,), ())
    """
    points = np.arange(-REACH, REACH + _STEP / 2, _STEP)
    try:
        values = np.asarray(phi(points))
    except (TypeError, ValueError) as error:
        name = getattr(phi, "__name__", repr(phi))
        raise InvalidTypeError(f"activation is a function on numpy arrays, but {name} raised {error!r}") from error
    if values.shape != points.shape:
        raise InvalidValueError(f"activation returns shape {values.shape} for an array of shape {points.shape}")
    if not np.isfinite(values).all():
        raise InvalidValueError("activation is not finite everywhere between -32 and 32")
    steepest = max(float(np.abs(np.diff(values)).max()) / _STEP, 1e-300)
    bends = _bends(values, _STEP)
    peak = (bends >= np.maximum(np.r_[0.0, bends[:-1]], np.r_[bends[1:], 0.0])) & (bends > _SMALLEST * steepest)
    kinks = [_zoom(phi, float(points[1:-1][at]), steepest) for at in np.flatnonzero(peak)]
    found = sorted({_tidy(one) for one in kinks if one is not None})
    return tuple(one for at, one in enumerate(found) if at == 0 or one - found[at - 1] > 1e-5)


def numerical_slope(phi: Function, kinks: tuple[float, ...]) -> Function:
    """Return the derivative of `phi` by four-point differences, one-sided where a kink is near."""

    def slope(u: Array) -> Array:
        h = _H * np.maximum(1.0, np.abs(u))
        central = (8.0 * (phi(u + h) - phi(u - h)) - (phi(u + 2 * h) - phi(u - 2 * h))) / (12.0 * h)
        result = np.asarray(central, np.float64)
        for kink in kinks:
            side = np.where(u >= kink, h, -h)
            ahead = (
                -25.0 * phi(u)
                + 48.0 * phi(u + side)
                - 36.0 * phi(u + 2 * side)
                + 16.0 * phi(u + 3 * side)
                - 3.0 * phi(u + 4 * side)
            ) / (12.0 * side)
            result = np.where(np.abs(u - kink) <= 2 * h, ahead, result)
        return result

    return slope


def _bends(values: Array, step: float) -> Array:
    bends: Array = np.abs(values[2:] - 2.0 * values[1:-1] + values[:-2]) / step
    return bends


def _zoom(phi: Function, center: float, steepest: float) -> float | None:
    """Follow the largest second difference to ever smaller scales; None where it fades, as it does if phi is smooth."""
    step = _STEP
    while step > _FINEST:
        step /= 8.0
        points = center + step * np.arange(-10.0, 11.0)
        bends = _bends(np.asarray(phi(points)), step)
        at = int(np.argmax(bends))
        center = float(points[1:-1][at])
    if bends[at] > 1e3 * steepest + 1e3:
        raise InvalidValueError(f"activation jumps near {_tidy(center):g}; theory needs a continuous function")
    return center if bends[at] > _SMALLEST * steepest else None


def _tidy(kink: float) -> float:
    """Return the short decimal that a kink, located to about 1e-8, stands for."""
    return round(kink, 6) + 0.0
