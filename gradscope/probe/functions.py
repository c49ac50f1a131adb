"""Activation functions as autograd shows them: which node, what it saved, its value and its slope."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


@dataclass(frozen=True)
class Phi:
    """A recognised call of an activation function.

    Attributes:
        name: Its name, as in a run.
        saved: What autograd saved of the call: u, or phi(u).
        saved_input: True where ``saved`` is u.
        value: From (a piece of) ``saved`` to phi(u).
        slope: From (a piece of) ``saved`` to phi'(u).
        slope_max: Greatest |phi'|.
        constants: What tells it from other functions of its name.
    """

    name: str
    saved: Tensor
    saved_input: bool
    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    slope_max: float
    constants: tuple[object, ...] = ()

    @property
    def key(self) -> tuple[object, ...]:
        """What calls of the same function have in common."""
        return (self.name, self.saved_input, *self.constants)

    def forget(self) -> Phi:
        """The same function without the saved tensor."""
        return replace(self, saved=self.saved.new_empty(0))


def recognise(node: Any) -> Phi | None:
    """Return the activation function that an autograd node is a call of; None for another node."""
    build = _NODES.get(node.name())
    return build(node) if build else None


def is_packed(node: Any) -> bool:
    """Tell whether what a node saved is behind a hook (checkpointing, offloading): reading it would run the hook."""
    saved = (getattr(node, name, None) for name in ("_raw_saved_self", "_raw_saved_result"))
    return any(getattr(one, "unpack_hook", None) is not None for one in saved)


def recognise_packed(node: Any, result: Tensor | None) -> tuple[str, Phi | None]:
    """Name a call whose saved tensor must not be read; its slope follows from its result for some functions.

    Args:
        node: Autograd node of the call.
        result: What the call returned, if that is at hand.
    """
    name = _NAMES[node.name()]
    name = _elu_name(node) if name == "elu" else name
    if result is None or name not in _RESULT_SLOPES:
        return name, None
    if name == "leaky_relu":
        return name, from_result(name, result, negative_slope=node._saved_negative_slope)
    if name == "elu":
        return name, from_result(name, result, alpha=node._saved_alpha, scale=node._saved_scale)
    return name, from_result(name, result)


def is_activation(name: str) -> bool:
    """Tell whether nodes of this name are activation functions."""
    return name in _NODES


def _same(tensor: Tensor) -> Tensor:
    return tensor


def from_result(name: str, result: Tensor, **constants: float) -> Phi:
    """The call of a function whose slope follows from its value: relu, tanh, sigmoid, leaky_relu, elu, selu."""
    slope, slope_max = _RESULT_SLOPES[name](**constants)
    return Phi(name, result, False, _same, slope, slope_max, tuple(constants.values()))


def _from_input(name: str, u: Tensor, value: Callable[[Tensor], Tensor], slope_max: float, *constants: object) -> Phi:
    return Phi(name, u, True, value, lambda piece: _derivative(value, piece), slope_max, constants)


def _derivative(function: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
    """phi'(u) by autograd on a copy: exact at kinks as training sees them."""
    with torch.enable_grad():
        leaf = u.detach().clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(function(leaf).sum(), leaf)
    return slope


def _leaky(negative_slope: float) -> tuple[Callable[[Tensor], Tensor], float]:
    def slope(result: Tensor) -> Tensor:
        # Not where(..., 1.0, slope): that is float32, and a slope of 0.01 would fall below 1 % of the maximum.
        return torch.full_like(result, negative_slope).masked_fill_(result > 0, 1.0)

    return slope, max(1.0, abs(negative_slope))


def _elu(alpha: float, scale: float, input_scale: float = 1.0) -> tuple[Callable[[Tensor], Tensor], float]:
    def slope(result: Tensor) -> Tensor:
        return ((result + alpha * scale) * input_scale).masked_fill_(result > 0, scale)

    return slope, max(scale, alpha * scale * input_scale)


_RESULT_SLOPES: dict[str, Callable[..., tuple[Callable[[Tensor], Tensor], float]]] = {
    "relu": lambda: (lambda y: (y > 0).to(y.dtype), 1.0),
    "tanh": lambda: (lambda y: 1 - y * y, 1.0),
    "sigmoid": lambda: (lambda y: y * (1 - y), 0.25),
    "leaky_relu": lambda negative_slope=0.01: _leaky(negative_slope),
    "elu": lambda alpha=1.0, scale=1.0, input_scale=1.0: _elu(alpha, scale, input_scale),
    "selu": lambda: _elu(SELU_ALPHA, SELU_SCALE),
}


def _elu_name(node: Any) -> str:
    selu = math.isclose(node._saved_scale, SELU_SCALE, rel_tol=1e-6)
    return "selu" if selu else "elu"


def _elu_from_input(node: Any) -> Phi:
    alpha, scale, input_scale = node._saved_alpha, node._saved_scale, node._saved_input_scale

    def value(u: Tensor) -> Tensor:
        result: Tensor = torch.ops.aten.elu(u, alpha, scale, input_scale)
        return result

    def slope(u: Tensor) -> Tensor:
        below: Tensor = alpha * scale * input_scale * torch.exp(u * input_scale)
        return below.masked_fill_(u > 0, scale)

    constants = (alpha, scale, input_scale)
    slope_max = max(scale, alpha * scale * input_scale)
    return Phi(_elu_name(node), node._saved_self, True, value, slope, slope_max, constants)


def _elu_from_result(node: Any) -> Phi:
    constants = {
        "alpha": node._saved_alpha,
        "scale": node._saved_scale,
        "input_scale": node._saved_input_scale,
    }
    slope, slope_max = _elu(**constants)
    return Phi(_elu_name(node), node._saved_result, False, _same, slope, slope_max, tuple(constants.values()))


def _leaky_from_input(node: Any) -> Phi:
    negative = node._saved_negative_slope
    slope, slope_max = _leaky(negative)
    saved = node._saved_self
    return Phi("leaky_relu", saved, True, lambda u: F.leaky_relu(u, negative), slope, slope_max, (negative,))


def _gelu(node: Any) -> Phi:
    approximate = node._saved_approximate
    return _from_input("gelu", node._saved_self, lambda u: F.gelu(u, approximate=approximate), 1.1289, approximate)


def _hardtanh(node: Any) -> Phi:
    low, high = node._saved_min_val, node._saved_max_val
    name = "relu6" if (low, high) == (0, 6) else "hardtanh"
    return _from_input(name, node._saved_self, lambda u: F.hardtanh(u, low, high), 1.0, low, high)


def _softplus(node: Any) -> Phi:
    beta, threshold = node._saved_beta, node._saved_threshold
    return _from_input("softplus", node._saved_self, lambda u: F.softplus(u, beta, threshold), 1.0, beta, threshold)


def _celu(node: Any) -> Phi:
    alpha = node._saved_alpha
    return _from_input("celu", node._saved_self, lambda u: F.celu(u, alpha), 1.0, alpha)


def softsign(u: Tensor) -> Phi:
    """The call of u / (1 + |u|), which autograd shows as a division."""
    return Phi("softsign", u, True, F.softsign, lambda piece: (1 + piece.abs()) ** -2, 1.0)


_NODES: dict[str, Callable[[Any], Phi]] = {
    "ReluBackward0": lambda node: from_result("relu", node._saved_result),
    "TanhBackward0": lambda node: from_result("tanh", node._saved_result),
    "SigmoidBackward0": lambda node: from_result("sigmoid", node._saved_result),
    "LeakyReluBackward0": _leaky_from_input,
    "LeakyReluBackward1": lambda node: from_result(
        "leaky_relu", node._saved_result, negative_slope=node._saved_negative_slope
    ),
    "EluBackward0": _elu_from_input,
    "EluBackward1": _elu_from_result,
    "CeluBackward0": _celu,
    "GeluBackward0": _gelu,
    "SiluBackward0": lambda node: _from_input("silu", node._saved_self, F.silu, 1.0998),
    "MishBackward0": lambda node: _from_input("mish", node._saved_self, F.mish, 1.0885),
    "HardtanhBackward0": _hardtanh,
    "HardswishBackward0": lambda node: _from_input("hardswish", node._saved_self, F.hardswish, 1.5),
    "HardsigmoidBackward0": lambda node: _from_input("hardsigmoid", node._saved_self, F.hardsigmoid, 1 / 6),
    "LogSigmoidBackward0": lambda node: _from_input("logsigmoid", node._saved_self, F.logsigmoid, 1.0),
    "SoftplusBackward0": _softplus,
}

_NAMES = {
    "ReluBackward0": "relu",
    "TanhBackward0": "tanh",
    "SigmoidBackward0": "sigmoid",
    "LeakyReluBackward0": "leaky_relu",
    "LeakyReluBackward1": "leaky_relu",
    "EluBackward0": "elu",
    "EluBackward1": "elu",
    "CeluBackward0": "celu",
    "GeluBackward0": "gelu",
    "SiluBackward0": "silu",
    "MishBackward0": "mish",
    "HardtanhBackward0": "hardtanh",
    "HardswishBackward0": "hardswish",
    "HardsigmoidBackward0": "hardsigmoid",
    "LogSigmoidBackward0": "logsigmoid",
    "SoftplusBackward0": "softplus",
}

# The smallest positive entry of u, against the RMS, that shows where a ReLU begins.
KINK = 0.25
# What an in-place call on a view hides from autograd is recognised by its values.
_IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
}


def recognise_by_values(before: Tensor, after: Tensor, result: Tensor) -> Phi | None:
    """Return the activation function that turned sampled entries ``before`` into ``after``; None for no known one.

    Args:
        before: Sample of u.
        after: The same entries afterwards.
        result: The whole tensor afterwards.
    """
    if before.shape != after.shape or torch.equal(before, after):
        return None
    for name, function in _IN_PLACE.items():
        if torch.allclose(function(before), after, rtol=1e-6, atol=0.0, equal_nan=True):
            return from_result(name, result) if name != "relu" or _shows_kink(before) else None
    return None


def _shows_kink(u: Tensor) -> bool:
    """Tell whether entries just above zero are there to see: else a threshold above zero looks like a ReLU."""
    above = u[u > 0]
    return bool(above.numel() and above.min() < KINK * u.square().mean().sqrt())
