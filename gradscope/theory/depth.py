"""How deep a network can be before theory expects it not to train, and in which phase it is."""

from __future__ import annotations

import math
from typing import Literal

from gradscope.theory.mean_field import MeanField

Phase = Literal["ordered", "critical", "chaotic", "unknown"]
DEPTH_SCALES = 6.0
"""Depth scales of the correlation down to which networks were seen to train (Schoenholz et al. 2017)."""
_EDGE = 1e-3


def trainable_depth(found: MeanField) -> float:
    """Return about how many layers of this kind can be trained: 6 xi_c.

    Beyond it two inputs have come to their common correlation, so that the output no longer tells what came in.
    Infinite at the edge of chaos; NaN where xi_c is. An observation on digits with plain gradient descent, no bound:
    near it, and with normalization or skips, measure.

    Source: Schoenholz et al. 2017, Deep Information Propagation.

    >>> from gradscope.theory.mean_field import mean_field
    >>> round(trainable_depth(mean_field("sigmoid", weight_var=1.0)), 1)
    2.1
    """
    return DEPTH_SCALES * found.xi_c


def phase(chi: float, *, tolerance: float = _EDGE) -> Phase:
    """Name the phase of a network by its chi.

    `ordered` below 1 (inputs become alike, gradients vanish), `chaotic` above (like inputs part, gradients explode),
    `critical` within `tolerance` of 1, `unknown` for NaN.

    >>> phase(0.5), phase(1.0), phase(1.2), phase(float("nan"))
    ('ordered', 'critical', 'chaotic', 'unknown')
    """
    if math.isnan(chi):
        return "unknown"
    if abs(chi - 1.0) <= tolerance:
        return "critical"
    return "ordered" if chi < 1.0 else "chaotic"
