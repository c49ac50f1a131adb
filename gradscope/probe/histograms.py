"""Histograms by exponent: fixed bins of one factor of two each, so that steps and runs compare and add."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Every float32, the subnormal ones included; what a float64 holds beyond goes into the outermost bins.
LOWEST, HIGHEST = -149, 127
BINS = HIGHEST - LOWEST + 1


def bin_counts(stacked: Tensor) -> Tensor:
    """Count entries by sign and exponent.

    Args:
        stacked: Samples, shape (k, entries).

    Returns:
        Shape (k, 2 BINS + 2): bin i of the first BINS counts 2^(LOWEST+i) <= x < 2^(LOWEST+i+1), the next BINS the
        same of -x, then exact zeros, then NaN and infinite entries.
    """
    on_host = stacked.device.type == "cpu" and stacked.dtype == torch.float32
    if not on_host:
        return _by_frexp(stacked)
    rows: Any = np.from_dlpack(stacked)
    return torch.from_numpy(_by_bits(rows))


def _by_bits(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Read sign and exponent off the bits of normal numbers; the few others are counted one by one."""
    bits = np.ascontiguousarray(rows).view(np.uint32)
    place = (bits >> np.uint32(23)).astype(np.int64)
    place += 512 * np.arange(len(rows))[:, None]
    by_bits = np.bincount(place.ravel(), minlength=512 * len(rows)).reshape(len(rows), 512)
    found = np.zeros((len(rows), 2 * BINS + 2))
    for sign in (0, 1):
        normal = by_bits[:, 256 * sign + 1 : 256 * sign + 255]
        found[:, BINS * (sign + 1) - 254 : BINS * (sign + 1)] = normal
    found[:, 2 * BINS + 1] = by_bits[:, 255] + by_bits[:, 511]
    found[:, 2 * BINS] = by_bits[:, 0] + by_bits[:, 256]
    subnormal = (rows != 0) & (np.abs(rows) < np.float32(2.0**-126)) if found[:, 2 * BINS].any() else None
    if subnormal is not None and subnormal.any():
        _move_subnormal(found, rows, subnormal)
    return found


def _move_subnormal(found: NDArray[np.float64], rows: NDArray[np.float32], which: NDArray[np.bool_]) -> None:
    row = np.nonzero(which)[0]
    values = rows[which].astype(np.float64)
    place = np.frexp(values)[1] - 1 - LOWEST + BINS * (values < 0)
    width = found.shape[1]
    np.add.at(found.reshape(-1), row * width + place, 1)
    np.add.at(found.reshape(-1), row * width + 2 * BINS, -1)


def _by_frexp(stacked: Tensor) -> Tensor:
    finite = torch.isfinite(stacked)
    _, exponent = torch.frexp(torch.where(finite, stacked, torch.zeros_like(stacked)))
    place = (exponent.to(torch.int64) - 1 - LOWEST).clamp_(0, BINS - 1)
    place = torch.where(stacked < 0, place + BINS, place)
    place = torch.where(stacked == 0, 2 * BINS, place)
    place = torch.where(finite, place, 2 * BINS + 1)
    # bincount is not deterministic on a GPU; a sum of ones is.
    width = 2 * BINS + 2
    place = (place + width * torch.arange(len(stacked), device=stacked.device)[:, None]).reshape(-1)
    counts = torch.zeros(len(stacked) * width, dtype=torch.float64, device=stacked.device)
    counts.index_add_(0, place, torch.ones_like(place, dtype=torch.float64))
    return counts.reshape(len(stacked), width)


def histogram_row(
    step: int, call_id: int, quantity: str, counts: NDArray[np.float64], sampled: int, entries: int, shift: int = 0
) -> dict[str, Any]:
    """Build a row of ``histograms/`` from the counts of all micro-batches.

    Args:
        step: The step.
        call_id: Id of the layer call.
        quantity: Signal.
        counts: As `bin_counts` returns them.
        sampled: Entries counted.
        entries: Entries there are.
        shift: Power of two to take off: that of the loss scale.
    """
    whole = counts.astype(np.int64)
    positive, negative = whole[:BINS], whole[BINS : 2 * BINS]
    used = np.flatnonzero(positive + negative)
    low, high = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)
    return {
        "step": step,
        "id": call_id,
        "quantity": quantity,
        "lowest": LOWEST + low - shift,
        "positive": positive[low:high].tolist(),
        "negative": negative[low:high].tolist(),
        "zeros": int(whole[2 * BINS]),
        "nonfinite": int(whole[2 * BINS + 1]),
        "sampled": sampled,
        "entries": entries,
    }
