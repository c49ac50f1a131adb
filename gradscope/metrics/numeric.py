"""What a metric may return beside a number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Ratio:
    """A quotient that is null where the denominator is exactly zero: undefined is neither NaN nor infinite."""

    numerator: Tensor | NDArray[np.float64] | float
    denominator: Tensor | NDArray[np.float64] | float
