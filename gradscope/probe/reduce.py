"""Reduce a tensor at once, inside its hook: moments, an odd-stride sample, a sample of whole units."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SAMPLE_SIZE = 16_384
UNIT_ENTRIES = 32_768
ROW = 512
_EXACT = (torch.float32, torch.float64)
LEAST_UNITS = 16
# Between these a float32 sum of squares has lost nothing that matters to a relative error of 1e-6.
_SAFE_SQUARES = (1e-20, 1e37)
# Below this share of the sum of squares the deviations have cancelled away.
_CANCELLED = 0.1


def on_host(tensor: Tensor) -> bool:
    """Tell whether reading a number of this tensor costs no synchronisation."""
    return tensor.device.type == "cpu"


class Tape:
    """Numbers of one step: floats on the host at once, tensors of a device together in one transfer.

    ``put`` returns the place; ``read`` returns all numbers as float64.
    """

    def __init__(self) -> None:
        self._host: list[float] = []
        self._waiting: list[tuple[int, Tensor]] = []
        self.transfers = 0

    def put(self, *values: Tensor | float) -> int:
        """Note numbers (0-dim or flat tensors are laid out one after the other) and return where they start."""
        start = len(self._host)
        for value in values:
            if not isinstance(value, Tensor):
                self._host.append(float(value))
            elif on_host(value):
                self._host.extend([value.item()] if value.numel() == 1 else value.double().reshape(-1).tolist())
            else:
                self._waiting.append((len(self._host), value.detach().double().reshape(-1)))
                self._host.extend([math.nan] * value.numel())
        return start

    def read(self) -> NDArray[np.float64]:
        """Fetch what still lies on devices, one transfer for each, and return everything."""
        numbers = np.asarray(self._host, dtype=np.float64)
        for device in {tensor.device for _, tensor in self._waiting}:
            mine = [(start, tensor) for start, tensor in self._waiting if tensor.device == device]
            fetched = torch.cat([tensor for _, tensor in mine]).cpu().numpy()
            self.transfers += 1
            taken = 0
            for start, tensor in mine:
                numbers[start : start + tensor.numel()] = fetched[taken : taken + tensor.numel()]
                taken += tensor.numel()
        self._waiting.clear()
        return numbers


def flat(tensor: Tensor) -> Tensor:
    """All entries as one float vector, without a copy where the memory is dense; complex entries become pairs."""
    tensor = tensor.detach()
    if tensor.dtype in _EXACT and tensor.is_contiguous():
        return tensor.view(-1)
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if not tensor.is_contiguous() and torch.ops.aten.is_non_overlapping_and_dense(tensor):
        tensor = tensor.as_strided((tensor.numel(),), (1,))
    tensor = tensor.reshape(-1)
    return tensor if tensor.dtype in _EXACT else tensor.float()


def moments(vector: Tensor) -> tuple[float, float, float] | tuple[Tensor, Tensor, Tensor]:
    """Sum, sum of squares and sum of squared deviations of a flat vector, left on its device."""
    return host_moments(vector) if on_host(vector) else device_moments(vector)


def host_moments(vector: Tensor) -> tuple[float, float, float]:
    """Sum, sum of squares and sum of squared deviations of a flat vector on the CPU, as floats.

    A float32 pass, redone in float64 where its sum of squares leaves the safe range.
    """
    count = vector.numel()
    if count == 0:
        return 0.0, 0.0, 0.0
    total, squares = float(vector.sum()), _squares(vector)
    low, high = _SAFE_SQUARES
    if vector.dtype is torch.float32 and not low < squares < high:
        vector = vector.double()
        total, squares = float(vector.sum()), _squares(vector)
    mean = total / count
    deviations = squares - total * mean
    if deviations < _CANCELLED * squares:
        wide = vector.double()
        deviations = float((wide - wide.mean()).square().sum())
    return total, squares, deviations


def _squares(vector: Tensor) -> float:
    """Sum of squares: norms of short rows in the vector's type, then of these in float64.

    One float32 ``torch.dot`` over 1e7 entries is off by up to 1e-3, over a row of 512 by 3e-7 at worst.
    """
    if vector.numel() < 2 * ROW:
        return float(torch.dot(vector, vector))
    whole = vector.numel() // ROW * ROW
    tail = vector[whole:]
    squares = float(torch.dot(tail, tail))
    rows = torch.linalg.vector_norm(vector[:whole].view(-1, ROW), dim=1).double()
    return squares + float(torch.dot(rows, rows))


def device_moments(vector: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same on a device, accumulated in float64 and left there."""
    total = vector.sum(dtype=torch.float64)
    squares = torch.linalg.vector_norm(vector, dtype=torch.float64).square()
    mean = total / max(vector.numel(), 1)
    return total, squares, (squares - total * mean).clamp_min(0.0)


@lru_cache(maxsize=4096)
def odd_stride(entries: int, features: int) -> int:
    """Greatest odd stride that leaves a full sample and does not fall into step with the rows.

    >>> odd_stride(16384 * 9, 64), odd_stride(1000, 10), odd_stride(16384 * 16, 15)
    (9, 1, 13)
    """
    stride = max(entries // SAMPLE_SIZE, 1)
    stride -= stride % 2 == 0
    while stride > 1 and math.gcd(stride, max(features, 1)) != 1:
        stride -= 2
    return stride


def sample(vector: Tensor, features: int) -> Tensor:
    """Every k-th entry of a flat vector, k odd; every entry where there are few."""
    return vector[:: odd_stride(vector.numel(), features)]


def unit_step(count: int, rows: int) -> int:
    """Every how many units one is taken: all of them while rows x units stays small, 16 at least.

    >>> unit_step(512, 64), unit_step(512, 1024), unit_step(10, 10**6)
    (1, 16, 1)
    """
    wanted = min(count, max(UNIT_ENTRIES // max(rows, 1), LEAST_UNITS))
    return max(count // max(wanted, 1), 1)


def units(tensor: Tensor, unit_dim: int) -> Tensor:
    """A sample of whole units, shape (samples, units, positions); rows are never left out.

    Args:
        tensor: Output of a layer.
        unit_dim: Dimension of its units, counted from the end (-1 for Linear, -3 for Conv2d).
    """
    dim = tensor.dim() + unit_dim
    batch, count = (tensor.shape[0] if dim > 0 else 1), tensor.shape[dim]
    step = unit_step(count, tensor.numel() // max(count, 1))
    index = [slice(None)] * dim + [slice(None, None, step)]
    chosen = tensor.detach()[tuple(index)].movedim(dim, 0)
    positions = tensor.numel() // max(batch * count, 1)
    return chosen.reshape(chosen.shape[0], batch, positions).transpose(0, 1)
