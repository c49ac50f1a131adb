"""What is taken of tensors of one kind and shape, and how: on the host with numpy, on a device in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradscope.probe import on_device, statistics
from gradscope.probe.functions import Phi
from gradscope.probe.histograms import bin_counts
from gradscope.probe.plan import WIDTHS, Column
from gradscope.signals import FLAT, FP16_SMALLEST

Array = NDArray[np.float64]
_OF_SAMPLE = ("zeros", "small", "power")
# On so many entries without a slope a unit is worth a closer look.
CLEARLY_ACTIVE = 64


@dataclass(frozen=True)
class Layout:
    """What is taken of tensors.

    Attributes:
        wanted: Statistics by signal.
        unit_dim: Dimension of the tensors that counts units, from the end.
        phi: A call of the activation function whose saved tensors these are; None for the signal itself.
    """

    wanted: tuple[tuple[str, tuple[str, ...]], ...]
    unit_dim: int
    phi: Phi | None = None


class Reducer:
    """Takes the statistics of a layout from stacked tensors of one shape.

    Attributes:
        columns: Statistics in the order of the numbers.
        histograms: Signals to count by exponent.
        wants_dead: Whether the share of zero slopes is wanted by unit.
        entries: Entries of one tensor.
        sampled: Entries of a sample of one.
        samples: What a unit is seen on in one: samples times positions.
        step: Every how many units one is sampled.
        stride: Every how many entries one is sampled.
        has_samples: Whether a tensor holds several samples, one below the other.
    """

    def __init__(self, layout: Layout, tensor: Tensor) -> None:
        self._layout = layout
        self._phi = layout.phi
        self.columns: tuple[Column, ...] = tuple(
            (signal, one) for signal, found in layout.wanted for one in found if one in WIDTHS
        )
        self.histograms = tuple(signal for signal, found in layout.wanted if "histogram" in found)
        self.wants_dead = any("dead" in found for _, found in layout.wanted)
        self._signals = {signal: [one for one in found if one in WIDTHS] for signal, found in layout.wanted}
        self._takes_sample = any(one in _OF_SAMPLE for _, one in self.columns)
        self._width = sum(WIDTHS[one] for _, one in self.columns)
        self._measure(tensor)

    def _measure(self, tensor: Tensor) -> None:
        shape = tuple(tensor.shape) + ((2,) if tensor.is_complex() else ())
        self._unit_dim = self._layout.unit_dim - tensor.is_complex()
        self.entries = tensor.numel() * (2 if tensor.is_complex() else 1)
        self.stride = statistics.odd_stride(self.entries, shape[-1] if shape else 1)
        self.sampled = -(-self.entries // self.stride)
        dim = len(shape) + self._unit_dim
        units = shape[dim] if dim >= 0 else 1
        self.samples = self.entries // max(units, 1)
        self.step = statistics.unit_step(units, self.samples)
        self.has_samples = dim > 0 and bool(shape) and shape[0] > 1 and self.entries > 0
        self._units = (*(slice(None) for _ in range(dim + 1)), slice(None, None, self.step)) if dim >= 0 else ()
        self._others = tuple(one + 1 for one in range(len(shape)) if one != dim)

    def host_table(self, stacked: Tensor) -> Array:
        """Statistics, shape (k, numbers)."""
        table = np.zeros((len(stacked), self._width))
        if not self.entries:
            return table
        rows = flat_rows(stacked)
        piece = rows[:, :: self.stride].contiguous() if self.stride > 1 and self._takes_sample else rows
        at = 0
        for signal, wanted in self._signals.items():
            if self._phi is not None and signal == "slope" and self._phi.name == "relu":
                at = self._steps(table, at, as_array(piece), rows, wanted)
                continue
            whole = as_array(self._derive(rows, signal)) if "moments" in wanted or "squares" in wanted else None
            part = self._derive_host(piece, signal) if any(one in _OF_SAMPLE for one in wanted) else None
            nothing = statistics.zeros(part) if part is not None and "zeros" in wanted else None
            for one in wanted:
                if one == "spread":
                    self._spread(table, at, self._derive(stacked, signal))
                elif one in _OF_SAMPLE:
                    table[:, at] = part.shape[1]  # type: ignore[union-attr]
                    table[:, at + 1] = self._of_sample(one, signal, part, nothing)
                else:
                    _of_whole(table, at, one, whole)
                at += WIDTHS[one]
        return table

    def _of_sample(self, statistic: str, signal: str, part: Any, nothing: Array | None) -> Array:
        if statistic == "zeros" and nothing is not None:
            return nothing
        if statistic == "power":
            return statistics.squares(part)
        return statistics.small(part, self._threshold(signal), signal == "slope", nothing)

    def _steps(self, table: Array, at: int, piece: Any, rows: Tensor, wanted: list[str]) -> int:
        """The slope of a ReLU is 0 or 1: one count says all."""
        active = statistics.count_rows(piece > 0)
        for one in wanted:
            table[:, at] = piece.shape[1]
            if one in ("moments", "squares"):
                _of_whole(table, at, one, as_array(self._derive(rows, "slope")))
            else:
                table[:, at + 1] = active if one == "power" else piece.shape[1] - active
            at += WIDTHS[one]
        return at

    def _spread(self, table: Array, at: int, stacked: Tensor) -> None:
        if self.has_samples:
            blocks = self._blocks(stacked)
            weight = blocks.shape[1] * blocks.shape[2]
            table[:, at], table[:, at + 1] = weight, weight * statistics.spread(as_array(blocks))

    def _blocks(self, stacked: Tensor) -> Tensor:
        """A sample of whole units, at some positions of every sample: shape (k, samples, units x positions)."""
        chosen = stacked[self._units]
        if chosen.dim() > 3:
            chosen = chosen.movedim(self._unit_dim, 2).flatten(3)
            per_position = chosen.shape[1] * chosen.shape[2]
            stride = statistics.odd_stride(chosen.shape[3], 1, max(statistics.UNIT_ENTRIES // max(per_position, 1), 1))
            chosen = chosen[..., ::stride]
        return chosen.reshape(len(chosen), chosen.shape[1], -1)

    def host_row(self, tensor: Tensor) -> list[float]:
        """Statistics of a single tensor; what `host_table` gives, with fewer calls."""
        row: list[float] = []
        vector = flat_rows(tensor[None])[0]
        piece = vector[:: self.stride].contiguous() if self.stride > 1 and self._takes_sample else vector
        for signal, wanted in self._signals.items():
            self._add_signal(row, signal, wanted, tensor, vector, piece)
        return row

    def _add_signal(
        self, row: list[float], signal: str, wanted: list[str], tensor: Tensor, vector: Tensor, piece: Tensor
    ) -> None:
        is_step = signal == "slope" and self._phi is not None and self._phi.name == "relu"
        active = float(np.count_nonzero(as_array(piece) > 0)) if is_step else 0.0
        part = nothing = magnitude = None
        for one in wanted:
            if one == "moments" or one == "squares":
                whole = self._derive_host(vector, signal)
                power = statistics.square_sum(whole)
                row.append(float(self.entries))
                if one == "moments":
                    total = statistics.entry_sum(whole)
                    row += [total, power, statistics.deviation_sum(whole, total, power)]
                else:
                    row.append(power)
            elif one == "spread":
                table = np.zeros((1, 2))
                self._spread(table, 0, self._derive(tensor[None], signal))
                row += table[0].tolist()
            elif is_step:
                row += [float(len(piece)), active if one == "power" else len(piece) - active]
            else:
                part = self._derive_host(piece, signal) if part is None else part
                row.append(float(len(part)))
                if one == "power":
                    row.append(statistics.square_sum(part))
                elif one == "zeros":
                    nothing = float(np.count_nonzero(part == 0))
                    row.append(nothing)
                else:
                    magnitude = np.abs(part, out=statistics.scratch(part))
                    limit = part.dtype.type(self._threshold(signal))
                    if signal == "slope":
                        row.append(float(np.count_nonzero(magnitude < limit)))
                    else:
                        nothing = float(np.count_nonzero(part == 0)) if nothing is None else nothing
                        row.append(float(np.count_nonzero(magnitude <= limit)) - nothing)

    def _threshold(self, signal: str) -> float:
        return FLAT * self._phi.slope_max if signal == "slope" and self._phi is not None else FP16_SMALLEST / 2

    def device_table(self, stacked: Tensor) -> Tensor:
        """The same on a device."""
        rows = flat_rows(stacked)
        piece = rows[:, :: self.stride]
        found: list[Tensor] = []
        for signal, one in self.columns:
            if one in _OF_SAMPLE:
                found += self._device_sample(one, signal, self._derive(piece, signal))
            elif one == "spread":
                found += self._device_spread(self._derive(stacked, signal))
            else:
                whole = self._derive(rows, signal)
                power = on_device.squares(whole)
                total = on_device.sums(whole)
                both = [total, power, on_device.deviations(whole, total, power)] if one == "moments" else [power]
                found += [torch.full_like(power, float(self.entries)), *both]
        return torch.stack(found, dim=1)

    def _device_sample(self, statistic: str, signal: str, part: Tensor) -> list[Tensor]:
        if statistic == "zeros":
            number = on_device.zeros(part)
        elif statistic == "power":
            number = on_device.squares(part)
        else:
            number = on_device.small(part, self._threshold(signal), signal == "slope")
        return [torch.full_like(number, float(part.shape[1])), number]

    def _device_spread(self, stacked: Tensor) -> list[Tensor]:
        if not self.has_samples:
            nothing = torch.zeros(len(stacked), dtype=torch.float64, device=stacked.device)
            return [nothing, nothing]
        blocks = self._blocks(stacked)
        number, weight = on_device.spread(blocks), float(blocks.shape[1] * blocks.shape[2])
        return [torch.full_like(number, weight), number * weight]

    def bins(self, stacked: Tensor, signal: str) -> Tensor:
        """Histograms of samples by exponent, shape (k, bins)."""
        return bin_counts(self._derive(flat_rows(stacked)[:, :: self.stride], signal).contiguous())

    def shares(self, stacked: Tensor) -> Tensor:
        """Share of zero slopes by sampled unit, shape (k, units), float64."""
        is_flat = self._is_flat(stacked[self._units])
        if stacked.device.type == "cpu" and not is_flat.numpy().any():
            # Nearly always, but for functions that are flat on one side: two passes less.
            return torch.zeros(len(is_flat), is_flat.shape[self._unit_dim], dtype=torch.float64)
        is_flat = is_flat.to(torch.float32)
        return (is_flat.mean(self._others) if self._others else is_flat).double()

    def flat_units(self, tensor: Tensor) -> Tensor:
        """1 for every sampled unit whose slope is zero on every sample, else 0, shape (1, units).

        A few samples show of nearly all units that they are not; only the others are looked at further.
        """
        chosen = tensor[None][self._units]
        if not self.has_samples:
            return self._all_flat(chosen).double()
        positions = max(self.samples // chosen.shape[1], 1)
        rows = -(-CLEARLY_ACTIVE // positions)
        found = self._all_flat(chosen[:, :: max(chosen.shape[1] // rows, 1)])
        if found.any():
            suspects = found[0].nonzero()[:, 0]
            found[0, suspects] = self._all_flat(chosen.index_select(chosen.dim() + self._unit_dim, suspects))[0]
        return found.double()

    def _all_flat(self, chosen: Tensor) -> Tensor:
        """Whether all of a unit's slopes are zero, shape (k, units)."""
        is_flat = self._is_flat(chosen)
        return is_flat.all(self._others) if self._others else is_flat

    def _is_flat(self, chosen: Tensor) -> Tensor:
        is_relu = self._phi is not None and self._phi.name == "relu"
        return chosen <= 0 if is_relu else self._derive(chosen, "slope") == 0

    def _derive(self, piece: Tensor, signal: str) -> Tensor:
        if self._phi is None:
            return piece
        return self._phi.slope(piece) if signal == "slope" else self._phi.value(piece)

    def _derive_host(self, piece: Tensor, signal: str) -> Any:
        if self._phi is not None and signal == "slope" and not self._phi.saved_input:
            if self._phi.name == "tanh":
                return statistics.slope_of_tanh(as_array(piece))
            if self._phi.name == "sigmoid":
                return statistics.slope_of_sigmoid(as_array(piece))
        return as_array(self._derive(piece, signal))


def _of_whole(table: Array, at: int, statistic: str, rows: Any) -> None:
    table[:, at] = rows.shape[1]
    power = statistics.squares(rows)
    if statistic == "squares":
        table[:, at + 1] = power
        return
    total = statistics.sums(rows)
    table[:, at + 1], table[:, at + 2] = total, power
    table[:, at + 3] = statistics.deviations(rows, total, power)


def real(tensor: Tensor) -> Tensor:
    """The tensor, detached, strided, in float32 or float64; complex entries become pairs."""
    tensor = tensor.detach()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def as_array(tensor: Tensor) -> Any:
    """The tensor's memory as an array to read from.

    Not by ``Tensor.numpy``, after which torch lets nobody resize that memory any more: a training that gives the memory
    of its activations back would fail.
    """
    return np.from_dlpack(tensor)


def flat_rows(stacked: Tensor) -> Tensor:
    """Entries of every tensor in one row, without a copy where the memory is dense; shape (k, entries)."""
    if not stacked.is_contiguous() and len(stacked) == 1 and torch.ops.aten.is_non_overlapping_and_dense(stacked[0]):
        return stacked.as_strided((1, stacked.numel()), (stacked.numel(), 1))
    return stacked.reshape(len(stacked), -1)
