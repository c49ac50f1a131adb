"""Compare two values bit for bit: the same bits are the same, NaN with the same bits included."""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Leaf = object


@dataclass(frozen=True)
class Difference:
    """Something that is not the same in two trainings.

    Attributes:
        what: Kind of thing, such as ``gradients``.
        where: Which one, such as ``0.weight``.
        step: The first step that shows it.
        entries: How many entries differ then.
        of: How many entries there are.
        greatest: Greatest absolute difference; 0 where only the sign of a zero differs, NaN where an entry of either is
            NaN or where the values are no numbers.
        detail: What cannot be said in numbers, such as two shapes; the first training's value comes first.
    """

    what: str
    where: str
    step: int
    entries: int
    of: int
    greatest: float
    detail: str = ""

    def __str__(self) -> str:
        if self.detail:
            return f"{self.what}, {self.where}: {self.detail}"
        return f"{self.what}, {self.where}: {self.entries} of {self.of} entries, by up to {self.greatest:.3g}"


def leaves(value: object, path: str = "") -> Iterator[tuple[str, Leaf]]:
    """Take a nest of mappings and sequences apart: path and value of everything in it.

    >>> list(leaves({"a": [1, 2.5], "b": None}, "x"))
    [('x a 0', 1), ('x a 1', 2.5), ('x b', None)]
    """
    if isinstance(value, Mapping):
        pairs = [(str(key), one) for key, one in value.items()]
    elif isinstance(value, list | tuple | deque):
        pairs = [(str(place), one) for place, one in enumerate(value)]
    else:
        yield path, value
        return
    for name, one in pairs:
        yield from leaves(one, f"{path} {name}".strip())


def compare(what: str, where: str, step: int, first: object, second: object) -> Difference | None:
    """Compare one thing of two trainings; None where it is the same, bit for bit."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return _compare_tensors(what, where, step, first, second)
    a, b = _bits(first), _bits(second)
    if a == b:
        return None
    greatest = math.nan
    if isinstance(first, int | float) and isinstance(second, int | float):
        greatest = abs(float(first) - float(second))
        return Difference(what, where, step, 1, 1, greatest, f"{first!r} and {second!r}")
    return Difference(what, where, step, 1, 1, greatest, _both(first, second))


def _compare_tensors(what: str, where: str, step: int, first: Tensor, second: Tensor) -> Difference | None:
    kinds = [(tuple(one.shape), one.dtype, one.device, one.layout) for one in (first, second)]
    if kinds[0] != kinds[1]:
        detail = next(f"{a} and {b}" for a, b in zip(*kinds, strict=True) if a != b)
        return Difference(what, where, step, second.numel(), second.numel(), math.nan, detail)
    count, greatest, total = 0, 0.0, 0
    for a, b in zip(_dense(first), _dense(second), strict=True):
        if a.shape != b.shape:
            detail = f"{a.numel()} and {b.numel()} stored entries"
            return Difference(what, where, step, second.numel(), second.numel(), math.nan, detail)
        total += b.numel()
        differing = _differing(a, b)
        if differing is not None:
            count += int(differing.sum())
            greatest = _greatest(greatest, a, b, differing)
    return Difference(what, where, step, count, total, greatest) if count else None


def _greatest(before: float, a: Tensor, b: Tensor, differing: Tensor) -> float:
    wide = torch.complex128 if a.is_complex() else torch.float64
    gaps = [(one.reshape(-1)[differing].cpu().to(wide)) for one in (a, b)]
    found = float((gaps[0] - gaps[1]).abs().max())
    return found if math.isnan(found) else max(before, found)


def _differing(a: Tensor, b: Tensor) -> Tensor | None:
    """Which entries have other bits; None where none has."""
    if a.numel() == 0:
        return None
    bytes_of_a, bytes_of_b = _bytes(a), _bytes(b)
    if torch.equal(bytes_of_a, bytes_of_b):
        return None
    return (bytes_of_a != bytes_of_b).any(dim=1)


def _bytes(tensor: Tensor) -> Tensor:
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1, 1)
    return flat.view(torch.uint8)


def _dense(tensor: Tensor) -> tuple[Tensor, ...]:
    """The plain tensors that make up a tensor."""
    tensor = tensor.detach()
    if tensor.layout == torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return (tensor.int_repr() if tensor.is_quantized else tensor,)


def _bits(value: object) -> object:
    """Something that is equal exactly where two values are the same."""
    if isinstance(value, float):
        return "float", struct.pack("d", value)
    if isinstance(value, complex):
        return "complex", struct.pack("dd", value.real, value.imag)
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, Tensor):
        return "tensor"
    if isinstance(value, tuple):
        return tuple(_bits(one) for one in value)
    if isinstance(value, int | str | bytes | None):
        return type(value).__name__, value
    return f"{type(value).__module__}.{type(value).__qualname__}"  # an object: its kind is all that can be compared


def _both(first: object, second: object) -> str:
    if isinstance(first, tuple) and isinstance(second, tuple) and all(isinstance(one, str) for one in first + second):
        return f"{', '.join(map(str, first)) or 'none'} and {', '.join(map(str, second)) or 'none'}"
    if isinstance(first, str | None) and isinstance(second, str | None):
        return f"{first} and {second}"
    if type(first) is not type(second):
        return f"{_kind(first)} and {_kind(second)}"
    return "not the same"


def _kind(value: object) -> str:
    return "none" if value is None else type(value).__name__
