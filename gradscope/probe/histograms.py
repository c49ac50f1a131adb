"""Histograms by exponent: fixed bins of one factor of two each, so that steps and runs compare and add."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

HISTOGRAMMED = ("activation_input", "output_grad", "weight", "weight_grad")
# Every float32, the subnormal ones included; what a float64 holds beyond goes into the outermost bins.
LOWEST, HIGHEST = -149, 127
BINS = HIGHEST - LOWEST + 1


def bin_counts(values: Tensor) -> Tensor:
    """Count entries by sign and exponent.

    Returns:
        2 BINS + 2 counts: bin k of the first BINS counts 2^(LOWEST+k) <= x < 2^(LOWEST+k+1), the next BINS the same
        of -x, then exact zeros, then NaN and infinite entries.
    """
    finite = torch.isfinite(values)
    _, exponent = torch.frexp(torch.where(finite, values, torch.zeros_like(values)))
    place = (exponent.to(torch.int64) - 1 - LOWEST).clamp_(0, BINS - 1)
    place = torch.where(values < 0, place + BINS, place)
    place = torch.where(values == 0, 2 * BINS, place)
    place = torch.where(finite, place, 2 * BINS + 1)
    # bincount is not deterministic on a GPU; a sum of ones is.
    counts = torch.zeros(2 * BINS + 2, dtype=torch.float64, device=values.device)
    return counts.index_add_(0, place, torch.ones_like(place, dtype=torch.float64))


def histogram_row(
    step: int,
    call_id: int,
    quantity: str,
    parts: Sequence[tuple[int, int, int]],
    numbers: NDArray[np.float64],
) -> dict[str, Any]:
    """Build a row of ``histograms/`` from the counts of all micro-batches on the tape."""
    counts = sum(numbers[slot : slot + 2 * BINS + 2] for slot, _, _ in parts)
    whole = np.asarray(counts, dtype=np.int64)
    positive, negative = whole[:BINS], whole[BINS : 2 * BINS]
    used = np.flatnonzero(positive + negative)
    low, high = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)
    return {
        "step": step,
        "id": call_id,
        "quantity": quantity,
        "lowest": LOWEST + low,
        "positive": positive[low:high].tolist(),
        "negative": negative[low:high].tolist(),
        "zeros": int(whole[2 * BINS]),
        "nonfinite": int(whole[2 * BINS + 1]),
        "sampled": sum(sampled for _, sampled, _ in parts),
        "entries": sum(entries for _, _, entries in parts),
    }
