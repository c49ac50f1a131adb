"""Small numeric helpers that several families share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ratio:
    """A quotient that is null where the denominator is exactly zero: undefined is neither NaN nor infinite."""

    numerator: Tensor | float
    denominator: Tensor | float


def share_of_zeros(values: Tensor) -> Tensor | None:
    """Share of entries that are exactly zero; null for an empty tensor."""
    if values.numel() == 0:
        return None
    return (values == 0).sum(dtype=torch.float64) / values.numel()


def share_below(values: Tensor, threshold: float) -> Tensor | None:
    """Share of entries x with 0 < |x| <= threshold; null for an empty tensor."""
    if values.numel() == 0:
        return None
    small = values.abs()
    return ((small > 0) & (small <= threshold)).sum(dtype=torch.float64) / values.numel()


def share_within(values: Tensor, threshold: float) -> Tensor | None:
    """Share of entries x with |x| < threshold, strictly; null for an empty tensor."""
    if values.numel() == 0:
        return None
    return (values.abs() < threshold).sum(dtype=torch.float64) / values.numel()


def root_mean_square(values: Tensor) -> Tensor | None:
    """Root of the mean square, in float64; null for an empty tensor."""
    if values.numel() == 0:
        return None
    return torch.sqrt(values.double().square().mean())
