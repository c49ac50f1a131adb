"""Small numeric helpers that several families share."""

from __future__ import annotations

import torch
from torch import Tensor


def share_of_zeros(values: Tensor) -> Tensor | float:
    """Share of entries that are exactly zero; NaN of an empty tensor."""
    if values.numel() == 0:
        return float("nan")
    return (values == 0).sum(dtype=torch.float64) / values.numel()


def share_below(values: Tensor, threshold: float) -> Tensor | float:
    """Share of entries x with 0 < |x| <= threshold; NaN of an empty tensor."""
    if values.numel() == 0:
        return float("nan")
    small = values.abs()
    return ((small > 0) & (small <= threshold)).sum(dtype=torch.float64) / values.numel()


def share_within(values: Tensor, threshold: float) -> Tensor | float:
    """Share of entries x with |x| < threshold, strictly; NaN of an empty tensor."""
    if values.numel() == 0:
        return float("nan")
    return (values.abs() < threshold).sum(dtype=torch.float64) / values.numel()


def root_mean_square(values: Tensor) -> Tensor:
    """Root of the mean square, in float64; NaN of an empty tensor."""
    return torch.sqrt(values.double().square().mean())
