"""The same statistics on a device: accumulated in float64, left there until the one transfer of the step.

All functions take ``rows``, shape (k, entries), and return a tensor of one float64 number for each row.
"""

from __future__ import annotations

import torch
from torch import Tensor


def squares(rows: Tensor) -> Tensor:
    """Sum of squares of every row."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return norms.square()


def sums(rows: Tensor) -> Tensor:
    """Sum of every row."""
    return rows.sum(1, dtype=torch.float64)


def deviations(rows: Tensor, total: Tensor, power: Tensor) -> Tensor:
    """Sum of squared deviations from the mean."""
    return (power - total * total / max(rows.shape[1], 1)).clamp_min(0.0)


def zeros(rows: Tensor) -> Tensor:
    """Number of exact zeros in every row."""
    return (rows == 0).sum(1, dtype=torch.float64)


def small(rows: Tensor, threshold: float, strictly: bool) -> Tensor:
    """Number of entries |x| < threshold, or 0 < |x| <= threshold where not ``strictly``."""
    magnitude = rows.abs()
    if strictly:
        return (magnitude < threshold).sum(1, dtype=torch.float64)
    return ((magnitude <= threshold) & (magnitude > 0)).sum(1, dtype=torch.float64)


def spread(blocks: Tensor) -> Tensor:
    """Mean over columns of the standard deviation over samples; blocks of shape (k, samples, columns)."""
    moved = (blocks - blocks[:, :1]).double()
    total, power = moved.sum(1), moved.square().sum(1)
    variance = (power - total * total / blocks.shape[1]) / (blocks.shape[1] - 1)
    return variance.clamp_min(0.0).sqrt().mean(1)


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """Scalar product of two vectors."""
    return (first.double() * second.double()).sum()
