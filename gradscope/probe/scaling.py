"""Undo a loss scale: by what each metric of each layer call has to be divided. Pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gradscope.signals import parse_signal
from gradscope.spec import MetricSpec

# Which part of `Scales` a signal carries; all others carry none.
CARRIED = {
    "output_grad": "error",
    "input_grad": "error",
    "input_grad_total": "error",
    "next_input_grad": "error",
    "activation_grad": "error",
    "norm_grad": "error",
    "norm_input_grad": "error",
    "join_grad": "error",
    "join_own_grad": "error",
    "activation_input_grad": "error",
    "weight_grad_raw": "error",
    "weight_grad": "weight",
    "bias_grad": "bias",
}
# Unscaling by a power of two is exact, clipping is not: it rounds every entry, to some 1e-8 of a norm.
EXACT = 1e-9


@dataclass(frozen=True)
class Scales:
    """What the gradients of a layer call still carry of the loss scale when they are measured.

    Attributes:
        error: On error signals and on the weight gradient as back-propagation leaves it: the scale of the backward
            pass. NaN where it cannot be told, as where backward passes of two scales meet in one number.
        weight: On the weight gradient that the optimizer is about to apply: 1 once it is unscaled, the scale where
            the optimizer unscales inside its step (a fused one).
        bias: The same of the bias gradient, which another optimizer may apply.
        skipped: Whether the optimizer did not take this step, since an entry was NaN or infinite.
    """

    error: float = 1.0
    weight: float = 1.0
    bias: float = 1.0
    skipped: bool = False


def divisors(specs: Sequence[MetricSpec], scales: Sequence[Scales]) -> NDArray[np.float64]:
    """Tell by what to divide the metrics of some layer calls.

    Args:
        specs: The metrics, in column order.
        scales: One for each call.

    Returns:
        Shape (calls, metrics): scale ** degree, from the degree of the metric and the gradients it is made of; 1
        where it is made of none, or has no degree; NaN where it mixes gradients of different scales, or the scale
        is not known.

    >>> spec = MetricSpec("weight_power", "W", degree=2, signals=("weight_grad_moments",))
    >>> divisors([spec], [Scales(error=8.0, weight=4.0), Scales(error=8.0)])
    array([[16.],
           [ 1.]])
    """
    rows = {one: [_divisor(spec, one) for spec in specs] for one in set(scales)}
    return np.asarray([rows[one] for one in scales], dtype=np.float64).reshape(len(scales), len(specs))


def unscaled(
    specs: Sequence[MetricSpec], scales: Sequence[Scales], values: NDArray[np.float64], present: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return values without the loss scale, and which are present: those whose scale is not known are not.

    Args:
        specs: The metrics, in column order.
        scales: One for each call.
        values: Shape (calls, metrics).
        present: Same shape.
    """
    by = divisors(specs, scales)
    known = ~np.isnan(by)
    return values / np.where(known, by, 1.0), present & known


def without_degree(specs: Iterable[MetricSpec]) -> list[str]:
    """Name the metrics of gradients that no division frees from a loss scale: they are of the scaled gradient.

    >>> without_degree([MetricSpec("a", "A", signals=("output_grad",)), MetricSpec("b", "B", signals=("output",))])
    ['a']
    """
    return [spec.name for spec in specs if spec.degree is None and _carried(spec.signals)]


def taken_off(raw: NDArray[np.float64], applied: NDArray[np.float64]) -> float | None:
    """Find the power of two by which every weight gradient shrank at once between backward pass and optimizer step.

    That is how a loss scale is taken off. Clipping divides all layers alike too, but not by a power of two.

    Args:
        raw: Norms of the weight gradients as back-propagation left them; NaN where there is none.
        applied: Norms of what the optimizer was about to apply, same shape.

    Returns:
        2, 4, 8, ...; None where there is no such factor.

    >>> taken_off(np.array([65536.0, 131072.0, np.nan]), np.array([1.0, 2.0, 1.0]))
    65536.0
    >>> taken_off(np.array([3.0, 6.0]), np.array([1.0, 2.0])) is None
    True
    """
    both = np.isfinite(raw) & np.isfinite(applied) & (raw > 0) & (applied > 0)
    if not both.any():
        return None
    with np.errstate(over="ignore"):
        ratios = raw[both] / applied[both]
    exponent = float(np.log2(ratios[0]))
    if not 0.5 < exponent < 1000:
        return None
    factor = 2.0 ** round(exponent)
    return factor if np.allclose(ratios, factor, rtol=EXACT, atol=0.0) else None


def _divisor(spec: MetricSpec, scales: Scales) -> float:
    carried = _carried(spec.signals)
    if not carried or spec.degree is None:
        return 1.0
    scale, *others = (float(getattr(scales, part)) for part in sorted(carried))
    if any(other != scale for other in others):
        return math.nan
    if spec.degree == 0:
        return 1.0
    return float(scale**spec.degree) if 0.0 < scale < math.inf else math.nan


@lru_cache(maxsize=4096)
def _carried(signals: tuple[str, ...]) -> frozenset[str]:
    """Parts of `Scales` that a metric of these signals carries."""
    names = (parse_signal(name).signal for name in signals)
    return frozenset(CARRIED[name] for name in names if name in CARRIED)
