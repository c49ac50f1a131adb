"""Passes of compiled code over tensors on the host: all statistics of a layout in one reading, in the hook itself.

The extension is optional. Without a C compiler, or with a layout it does not know, piles do the same with numpy.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, float32, float64, strided

from gradscope.probe.functions import SELU_ALPHA, SELU_SCALE, Phi
from gradscope.probe.layouts import Layout, Reducer
from gradscope.probe.statistics import UNIT_ENTRIES, odd_stride
from gradscope.signals import FLAT, FP16_SMALLEST

try:
    from gradscope.probe import _passes
except ImportError:
    _passes = None  # type: ignore[assignment]

_STATISTICS = {"moments": 0, "squares": 1, "zeros": 2, "small": 3, "power": 4, "spread": 5}
_OF_SLOPE = 8
_PHIS = {"relu": 1, "tanh": 2, "sigmoid": 3, "leaky_relu": 4, "elu": 5, "selu": 5}
# What the loops take of the tensor itself, of the value of a function and of its slope.
_KNOWN = {
    "": {*_STATISTICS, "histogram"},
    "activation": {"moments", "squares", "zeros", "power"},
    "slope": {"squares", "power", "small", "dead"},
}
Units = tuple[int, int, int, int]


def is_compiled() -> bool:
    """Tell whether the extension is there."""
    return _passes is not None


def fits(tensor: Tensor) -> bool:
    """Tell whether a pass reads this tensor's memory as it lies: dense, on the host, of real numbers as they stand."""
    return (
        _passes is not None
        and tensor.is_cpu
        and tensor.layout is strided
        and tensor.is_contiguous()
        and not tensor.is_complex()
        and not tensor.is_neg()
    )


def make_pass(layout: Layout, reducer: Reducer, tensor: Tensor) -> Any | None:
    """Build the pass over tensors of one layout and shape; None where only numpy can take what is wanted.

    Args:
        layout: What is taken.
        reducer: How numpy would take it.
        tensor: The first of the tensors.
    """
    if not fits(tensor) or not tensor.dim() or not _is_known(layout):
        return None
    codes = tuple(_STATISTICS[one] + (_OF_SLOPE if signal == "slope" else 0) for signal, one in reducer.columns)
    outer, units, inner, step = _units(tensor, layout.unit_dim, reducer.step)
    positions, apart = _positions(tensor, units, step)
    return _passes.Pass(
        float64 if tensor.dtype is float64 else float32,
        tensor.shape,
        tensor.dtype is float64,
        _PHIS[layout.phi.name] if layout.phi else 0,
        tensor.numel(),
        reducer.stride,
        codes,
        reducer.wants_dead,
        bool(reducer.histograms),
        _constants(layout.phi),
        (outer, units, inner, step),
        (tensor.shape[0] if reducer.has_samples else 1, positions, apart),
    )


def _is_known(layout: Layout) -> bool:
    phi = layout.phi
    if phi is not None and (phi.saved_input or phi.name not in _PHIS):
        return False
    return all(set(wanted) <= _KNOWN["" if phi is None else signal] for signal, wanted in layout.wanted)


def _constants(phi: Phi | None) -> tuple[float, float, float, float]:
    """What is small, and of the slope: its value above zero (leaky_relu: below), and how it follows from the value."""
    if phi is None:
        return FP16_SMALLEST / 2, 0.0, 0.0, 0.0
    threshold = FLAT * phi.slope_max
    given: tuple[Any, ...] = phi.constants
    if phi.name == "leaky_relu":
        return threshold, float(given[0]) if given else 0.01, 0.0, 0.0
    if phi.name not in ("elu", "selu"):
        return threshold, 0.0, 0.0, 0.0
    fixed = (SELU_ALPHA, SELU_SCALE, 1.0) if phi.name == "selu" else (1.0, 1.0, 1.0)
    alpha, scale, factor = list(given) + list(fixed[len(given) :])
    return threshold, float(scale), float(alpha * scale), float(factor)


def _units(tensor: Tensor, unit_dim: int, step: int) -> Units:
    """Entries as outer x units x inner, and every how many units one is sampled."""
    dim = tensor.dim() + unit_dim
    if dim < 0:
        return tensor.numel(), 1, 1, 1
    shape = tuple(tensor.shape)
    return math.prod(shape[:dim]), shape[dim], max(math.prod(shape[dim + 1 :]), 1), step


def _positions(tensor: Tensor, units: int, step: int) -> tuple[int, int]:
    """Positions of a unit in one sample, and every how many one is taken for the spread over samples."""
    samples = tensor.shape[0]
    positions = tensor.numel() // max(samples * units, 1)
    if tensor.dim() < 3:
        return positions, 1
    wanted = UNIT_ENTRIES // max(samples * -(-units // step), 1)
    return positions, odd_stride(positions, 1, max(wanted, 1))


__all__ = ["fits", "is_compiled", "make_pass"]
