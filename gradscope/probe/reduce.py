"""Where numbers of a recorded step wait: on the host at once, on a device for one transfer together."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradscope.probe.statistics import odd_stride, unit_step

_EXACT = (torch.float32, torch.float64)


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


def sample(vector: Tensor, features: int) -> Tensor:
    """Every k-th entry of a flat vector, k odd; every entry where there are few."""
    return vector[:: odd_stride(vector.numel(), features)]


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
