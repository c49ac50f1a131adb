"""Activation functions of a live model as theory takes them: with the constants that the model gives them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from gradscope.probe.functions import recognise
from gradscope.theory.functions import ACTIVATIONS, Activation, activation_of

Array = NDArray[np.float64]

NOTHING = Activation("?", lambda u: np.full_like(u, np.nan), lambda u: np.full_like(u, np.nan))
"""Stands for what theory does not know."""
_DEFAULTS: dict[str, tuple[object, ...]] = {"leaky_relu": (0.01,), "elu": (1.0, 1.0, 1.0), "gelu": ("none",)}
_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "leaky_relu": F.leaky_relu,
    "elu": torch.ops.aten.elu,
    "gelu": lambda u, approximate: F.gelu(u, approximate=approximate),
    "hardtanh": F.hardtanh,
    "relu6": F.hardtanh,
    "softplus": F.softplus,
    "celu": F.celu,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "logsigmoid": F.logsigmoid,
}


def read_activation(node: Any) -> Activation | None:
    """Return the activation function that an autograd node is a call of; None for one that is not known."""
    phi = recognise(node)
    if phi is None:
        return None
    constants = () if phi.name in ("relu", "tanh", "sigmoid", "selu", "silu", "softsign") else phi.constants
    return named_activation(phi.name, constants)


@lru_cache(maxsize=128)
def named_activation(name: str, constants: tuple[object, ...] = ()) -> Activation | None:
    """Return an activation function of PyTorch by its name and constants.

    >>> named_activation("leaky_relu", (0.5,)).phi(np.array([-2.0]))
    array([-1.])
    """
    if name in ACTIVATIONS and _is_default(name, constants):
        return ACTIVATIONS[name]
    if name not in _FUNCTIONS:
        return None
    function = _FUNCTIONS[name]

    def phi(u: Array) -> Array:
        with torch.no_grad():
            return np.asarray(function(torch.from_numpy(np.array(u, np.float64)), *constants).numpy())

    def slope(u: Array) -> Array:
        with torch.enable_grad():
            leaf = torch.from_numpy(np.array(u, np.float64)).requires_grad_()
            (found,) = torch.autograd.grad(function(leaf, *constants).sum(), leaf)
        return np.asarray(found.numpy())

    kinks = activation_of(phi).kinks
    return Activation(name, phi, slope, kinks)


def composed(first: Activation, second: Activation) -> Activation:
    """Return the function that applies one after the other; what follows an unknown one is unknown as well."""
    if first.name == "identity":
        return second
    if second.name == "identity" or first is NOTHING:
        return first

    def phi(u: Array) -> Array:
        return second.phi(first.phi(u))

    def slope(u: Array) -> Array:
        return second.slope(first.phi(u)) * first.slope(u)

    return Activation(f"{second.name}({first.name})", phi, slope, activation_of(phi).kinks)


def scaled(activation: Activation, factor: float) -> Activation:
    """Return the function times a factor."""
    if activation is NOTHING:
        return activation
    name = f"{factor:.4g} {activation.name}"
    return Activation(
        name, lambda u: factor * activation.phi(u), lambda u: factor * activation.slope(u), activation.kinks
    )


def _is_default(name: str, constants: tuple[object, ...]) -> bool:
    default = _DEFAULTS.get(name, ())
    if len(default) != len(constants):
        return not constants
    return all(
        math.isclose(one, other, rel_tol=1e-6)
        if isinstance(one, float) and isinstance(other, float | int)
        else one == other
        for one, other in zip(default, constants, strict=True)
    )
