"""The part of a figure that is seen: what is outside is not worth its bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Range = tuple[float, float]


@dataclass(frozen=True)
class Window:
    """Ranges of a figure's axes in their own units, which on a log axis are exponents; None shows all there is.

    Attributes:
        x: Left and right end.
        y: Lower and upper end.
    """

    x: Range | None = None
    y: Range | None = None

    @classmethod
    def of(cls, x: Any = None, y: Any = None) -> Window:
        """Read ranges that a browser reports; what is no pair of two numbers shows all there is.

        >>> Window.of([10, 2.5], [0, None])
        Window(x=(2.5, 10.0), y=None)
        """
        return cls(_pair(x), _pair(y))


ALL = Window()


def _pair(given: Any) -> Range | None:
    numbers = isinstance(given, Sequence) and len(given) == 2 and all(isinstance(one, int | float) for one in given)
    if not numbers or isinstance(given, str) or not all(math.isfinite(one) for one in given):
        return None
    low, high = sorted(float(one) for one in given)
    return (low, high) if high > low else None


def seen(places: NDArray[Any], between: Range | None) -> slice:
    """Return which of ascending places lie in a range, with one more at either end, to which lines lead.

    >>> seen(np.array([0, 10, 20, 30, 40]), (15.0, 25.0))
    slice(1, 4, None)
    >>> seen(np.array([0, 10]), None), seen(np.array([0, 10]), (90.0, 99.0))
    (slice(0, 2, None), slice(1, 2, None))
    """
    if between is None:
        return slice(0, len(places))
    low, high = np.searchsorted(places, between[0], "left"), np.searchsorted(places, between[1], "right")
    return slice(max(0, int(low) - 1), min(len(places), int(high) + 1))
