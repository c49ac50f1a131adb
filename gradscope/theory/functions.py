"""Activation functions as theory needs them: phi, its derivative, and where the derivative jumps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr

from gradscope.errors import InvalidTypeError, unknown_name
from gradscope.theory.kinks import find_kinks, numerical_slope

Array = NDArray[np.float64]
Function = Callable[[Array], Array]

LEAK = 0.01
SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946
_PROBES = np.array([1e-3, 0.3, 1.0, 7.0, 400.0])


@dataclass(frozen=True)
class Activation:
    """An activation function phi, entry by entry.

    Attributes:
        name: What it is called in tables and messages.
        phi: The function, on arrays.
        slope: Its derivative, on arrays; anything where it jumps.
        kinks: Where the derivative jumps; integrals are split there.
    """

    name: str
    phi: Function
    slope: Function
    kinks: tuple[float, ...] = ()

    @property
    def sides(self) -> tuple[float, float] | None:
        """The slopes (a, b) of phi(u) = a u for u < 0 and b u for u > 0; None where phi is not of that kind."""
        with np.errstate(all="ignore"):
            below, above = self.phi(-_PROBES) / -_PROBES, self.phi(_PROBES) / _PROBES
        straight = np.allclose(below, below[0], 1e-9, 1e-12) and np.allclose(above, above[0], 1e-9, 1e-12)
        return (float(below[0]) + 0.0, float(above[0]) + 0.0) if straight and set(self.kinks) <= {0.0} else None


def activation_of(
    activation: str | Function | Activation,
    derivative: Function | None = None,
    kinks: tuple[float, ...] | None = None,
) -> Activation:
    """Return the activation of a name, or make one of a function.

    Args:
        activation: One of `ACTIVATIONS` (``linear`` is ``identity``), a function on arrays, or an `Activation`.
        derivative: Derivative of a function that is given; None differentiates numerically, on either side of a kink.
        kinks: Where the derivative jumps; None looks for them between -32 and 32.

    Raises:
        UnknownNameError: No activation of that name.
        InvalidTypeError: Neither a name nor a function.
        InvalidValueError: The function jumps, or does not return as many numbers as it is given.

    >>> activation_of("relu").sides
    (0.0, 1.0)
    >>> activation_of(lambda u: np.clip(u, -1, 1)).kinks
    (-1.0, 1.0)
    """
    if isinstance(activation, Activation):
        return activation
    if isinstance(activation, str):
        name = "identity" if activation == "linear" else activation
        if name not in ACTIVATIONS:
            raise unknown_name("activation", activation, ACTIVATIONS)
        return ACTIVATIONS[name]
    if not callable(activation):
        raise InvalidTypeError(
            f"activation is a name or a function on arrays, not {activation!r}; names: {', '.join(ACTIVATIONS)}"
        )
    found = find_kinks(activation) if kinks is None else tuple(sorted(float(one) for one in kinks))
    name = getattr(activation, "__name__", "phi")
    return Activation(name, activation, derivative or numerical_slope(activation, found), found)


def _sigmoid_slope(u: Array) -> Array:
    slope: Array = expit(u) * expit(-u)
    return slope


def _tanh_slope(u: Array) -> Array:
    # 1 - tanh^2 loses all digits where tanh rounds to 1.
    slope: Array = 4.0 * expit(2.0 * u) * expit(-2.0 * u)
    return slope


def _elu(u: Array) -> Array:
    return np.where(u > 0, u, np.expm1(np.minimum(u, 0.0)))


def _elu_slope(u: Array) -> Array:
    return np.exp(np.minimum(u, 0.0))


def _selu(u: Array) -> Array:
    return SELU_SCALE * np.where(u > 0, u, SELU_ALPHA * np.expm1(np.minimum(u, 0.0)))


def _selu_slope(u: Array) -> Array:
    return SELU_SCALE * np.where(u > 0, 1.0, SELU_ALPHA * np.exp(np.minimum(u, 0.0)))


def _gelu_slope(u: Array) -> Array:
    slope: Array = ndtr(u) + u * np.exp(-0.5 * u * u) / np.sqrt(2.0 * np.pi)
    return slope


def _silu_slope(u: Array) -> Array:
    slope: Array = expit(u) * (1.0 + u * expit(-u))
    return slope


ACTIVATIONS: dict[str, Activation] = {
    one.name: one
    for one in (
        Activation("identity", lambda u: u, np.ones_like),
        Activation("sigmoid", expit, _sigmoid_slope),
        Activation("tanh", np.tanh, _tanh_slope),
        Activation("relu", lambda u: np.maximum(u, 0.0), lambda u: np.where(u > 0, 1.0, 0.0), (0.0,)),
        Activation("leaky_relu", lambda u: np.where(u > 0, u, LEAK * u), lambda u: np.where(u > 0, 1.0, LEAK), (0.0,)),
        Activation("elu", _elu, _elu_slope, (0.0,)),
        Activation("selu", _selu, _selu_slope, (0.0,)),
        Activation("gelu", lambda u: u * ndtr(u), _gelu_slope),
        Activation("silu", lambda u: u * expit(u), _silu_slope),
        Activation("softsign", lambda u: u / (1.0 + np.abs(u)), lambda u: (1.0 + np.abs(u)) ** -2.0, (0.0,)),
    )
}
"""The activation functions of the laboratory, with PyTorch's constants."""
