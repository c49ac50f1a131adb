"""The closed list of what a probe can capture of a layer call, and the statistics of a tensor that metrics share.

A metric names what it needs by its parameters. ``output_grad`` is the tensor itself; a suffix asks for a form of it.
Six forms are statistics, taken once for all metrics and handed over as arrays with one entry per layer call:

* ``output_moments``: count, sum, sum of squares, sum of squared deviations of all entries, exact (``Moments``);
* ``output_grad_squares``: count and sum of squares of all entries, exact (``Squares``);
* ``output_grad_zeros``: share of exact zeros in an odd-stride sample of at least 16,384 entries (all entries of a
  smaller tensor, and of any that compiled code reads);
* ``output_grad_small``: share of small entries in that sample: of ``slope``, |x| strictly below 1 % of the greatest
  slope, zeros included; of any other signal 0 < |x| <= 2^-25, what half precision rounds to zero;
* ``slope_power``: mean square of that sample;
* ``output_spread``: mean over a sample of whole units of the standard deviation over samples.

Two are tensors, handed over in the hook, one layer call at a time, like the tensor itself:

* ``output_grad_sample``: that odd-stride sample, flat;
* ``output_grad_units``: a sample of whole units, shape (samples, units, positions).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gradscope.errors import UnknownNameError, unknown_name

Phase = Literal[
    "forward",
    "activation",
    "activation_backward",
    "norm_backward",
    "join_backward",
    "backward",
    "input_total",
    "next",
    "step",
    "window",
]
STATISTICS = ("moments", "squares", "zeros", "small", "power", "spread")
FORMS = (*STATISTICS, "sample", "units")
FP16_SMALLEST = 2.0**-24
FLAT = 0.01


@dataclass(frozen=True)
class Signal:
    """One thing a probe can capture.

    Attributes:
        name: What a metric calls it.
        symbol: What the theory calls it.
        shape: Its shape; N is the batch.
        phase: When it is at hand. A metric takes tensors of one phase, parameters apart.
        doc: What it is.
    """

    name: str
    symbol: str
    shape: str
    phase: Phase
    doc: str


SIGNALS = {
    signal.name: signal
    for signal in (
        Signal("input", "a_{l-1}", "(N, inputs, ...)", "forward", "input of the layer"),
        Signal("output", "z_l", "(N, units, ...)", "forward", "output of the layer, before normalization"),
        Signal("activation_input", "u_l", "(N, units, ...)", "forward", "what the activation function receives"),
        Signal("activation", "phi(u_l)", "(N, units, ...)", "activation", "what the activation function returns"),
        Signal("slope", "phi'(u_l)", "(N, units, ...)", "activation", "derivative of the activation function"),
        Signal("slope_max", "max phi'", "()", "activation", "greatest slope of the activation function, a float"),
        Signal("activation_grad", "dL/dphi(u_l)", "(N, units, ...)", "activation_backward", "gradient of phi(u)"),
        Signal("activation_input_grad", "dL/du_l", "(N, units, ...)", "activation_backward", "gradient of u"),
        Signal("norm_grad", "dL/dnorm(z_l)", "(N, units, ...)", "norm_backward", "gradient of what is normalized"),
        Signal("norm_input_grad", "", "(N, units, ...)", "norm_backward", "what the normalization sends back"),
        Signal("join_grad", "dL/dt", "(N, ...)", "join_backward", "gradient of a tensor t on the way, of all its uses"),
        Signal("join_own_grad", "", "(N, ...)", "join_backward", "what of it came through the next layer"),
        Signal("join_overlap", "<own, dL/dt>", "()", "join_backward", "own by total gradient of t, a number"),
        Signal("output_grad", "dL/dz_l", "(N, units, ...)", "backward", "output gradient, the error signal"),
        Signal("input_grad", "W_l^T dL/dz_l", "(N, inputs, ...)", "backward", "what this call sends back"),
        Signal("input_grad_total", "dL/da_{l-1}", "(N, inputs, ...)", "input_total", "gradient of the input"),
        Signal("input_overlap", "<W_l^T dL/dz_l, dL/da_{l-1}>", "()", "input_total", "own by total gradient, a number"),
        Signal("next_input_grad", "dL/da_l", "(N, ...)", "next", "total gradient of the next layer's input"),
        Signal("weight", "W_l", "(units, inputs, ...)", "step", "weight, before the optimizer step"),
        Signal("bias", "b_l", "(units,)", "step", "bias, before the optimizer step"),
        Signal("weight_grad", "dL/dW_l", "(units, inputs, ...)", "step", "what the optimizer is about to apply"),
        Signal("bias_grad", "dL/db_l", "(units,)", "step", "what the optimizer is about to apply"),
        Signal("weight_grad_raw", "dL/dW_l", "(units, inputs, ...)", "step", "before clipping and averaging"),
        Signal("weight_update", "Delta W_l", "(units, inputs, ...)", "step", "what the optimizer step changed"),
        Signal("dead_units", "", "(units,)", "window", "per sampled unit: slope 0 on all of 64 or more samples"),
    )
}
# These two are at hand whenever something else of the layer is.
ANY_PHASE = ("weight", "bias")
OVERLAPS = ("input_overlap", "join_overlap")
_ONE_FORM = ("slope_max", "dead_units", *OVERLAPS)
_NO_UNITS = ("weight", "bias", "weight_grad", "bias_grad", "weight_grad_raw", "weight_update")


@dataclass(frozen=True)
class Request:
    """A signal in one of its forms; form ``""`` is the tensor itself."""

    signal: str
    form: str

    @property
    def phase(self) -> Phase:
        """When it is at hand."""
        return SIGNALS[self.signal].phase

    @property
    def is_statistic(self) -> bool:
        """Whether it comes as an array with one entry per layer call."""
        return self.form in STATISTICS or self.signal in OVERLAPS


def parse_signal(name: str) -> Request:
    """Split a metric's parameter name into signal and form.

    >>> parse_signal("output_grad_sample")
    Request(signal='output_grad', form='sample')
    >>> parse_signal("output_grad")
    Request(signal='output_grad', form='')

    Raises:
        UnknownNameError: if there is no such signal or it has no such form.
    """
    if name in SIGNALS:
        return Request(name, "")
    base, _, form = name.rpartition("_")
    no_units = form in ("units", "spread") and base in _NO_UNITS
    if base in SIGNALS and form in FORMS and base not in _ONE_FORM and not no_units:
        return Request(base, form)
    raise _unknown_signal(name)


def _unknown_signal(name: str) -> UnknownNameError:
    return unknown_name("signal", name, [*SIGNALS, *(f"<any of these>_{form}" for form in FORMS)])


class _OfSquares:
    """What follows from a count and a sum of squares."""

    count: NDArray[np.float64]
    sum_squares: NDArray[np.float64]

    @property
    def norm(self) -> NDArray[np.float64]:
        """Euclidean norm."""
        return np.sqrt(self.sum_squares)

    @property
    def rms(self) -> NDArray[np.float64]:
        """Norm / sqrt(count); NaN of an empty tensor."""
        return np.sqrt(_divide(self.sum_squares, self.count))


@dataclass(frozen=True)
class Moments(_OfSquares):
    """Shared moments of a tensor, of one layer call (floats) or of several (arrays of one entry a call).

    Attributes:
        count: Number of entries.
        sum: Sum of the entries.
        sum_squares: Sum of their squares.
        deviations: Sum of squared deviations from the mean, computed so that it survives |mean| >> std.
    """

    count: NDArray[np.float64]
    sum: NDArray[np.float64]
    sum_squares: NDArray[np.float64]
    deviations: NDArray[np.float64]

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of the entries; NaN of an empty tensor."""
        return _divide(self.sum, self.count)

    @property
    def std(self) -> NDArray[np.float64]:
        """Population standard deviation over all entries; NaN of an empty tensor."""
        return np.sqrt(_divide(self.deviations, self.count))


@dataclass(frozen=True)
class Squares(_OfSquares):
    """Sum of squares of a tensor, of one layer call (floats) or of several (arrays of one entry a call).

    Attributes:
        count: Number of entries.
        sum_squares: Sum of their squares.
    """

    count: NDArray[np.float64]
    sum_squares: NDArray[np.float64]


def _divide(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.divide(top, bottom), dtype=np.float64)


def pool_moments(parts: Sequence[tuple[float, float, float, float]]) -> tuple[float, float, float, float]:
    """Combine the moments of several micro-batches as if they were one tensor (Chan, Golub and LeVeque 1983).

    >>> pool_moments([(2, 2.0, 4.0, 2.0), (2, 6.0, 20.0, 2.0)])
    (4, 8.0, 24.0, 8.0)
    """
    count, total, squares, deviations = parts[0]
    for n, part_sum, part_squares, part_deviations in parts[1:]:
        if n and count:
            gap = part_sum / n - total / count
            deviations += gap * gap * count * n / (count + n)
        count, total, squares = count + n, total + part_sum, squares + part_squares
        deviations += part_deviations
    return count, total, squares, deviations
