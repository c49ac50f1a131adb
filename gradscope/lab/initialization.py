"""Initializations by name, with variances that can be checked against theory.

Every one but ``default`` zeroes biases. With n_in and n_out the fans of a layer:

=========================== ======================================= ================
name                        variance of a weight                    law
=========================== ======================================= ================
default                     1 / (3 n_in), biases too                uniform (PyTorch's own)
xavier_uniform, _normal     2 / (n_in + n_out)                      as named
kaiming_uniform, _normal    2 / n_in, whatever the activation       as named
lecun_uniform, _normal      1 / n_in                                as named
orthogonal                  rows (or columns) of length 1           uniform over such matrices
normal                      std**2                                  normal
critical                    sigma_w^2 / n_in on the edge of chaos   normal
centered_lsuv               such that each unit has variance 1      orthogonal, scaled
=========================== ======================================= ================

``xavier`` is short for ``xavier_uniform`` and ``kaiming`` for ``kaiming_normal``: the laws of the papers.

The last two look at the whole model. ``critical`` takes sigma_w^2 from theory (``gradscope.theory.critical``): the
gradient's chi = sigma_w^2 E phi'^2 is 1, for the activation function that the layer's input comes through (Schoenholz
et al. 2017). GELU and SiLU have a stable critical point only with random biases, which they then get unless bias_var is
given. A sigmoid has its own at sigma_w^2 = 103: eight such layers learn digits to 0.9, but ``centered_lsuv`` takes them
to 0.98. That one is the layer-sequential initialization of Mishkin and Matas 2016 made per unit and centred:
on a sample of inputs each unit has mean 0 (by its bias) and standard deviation 1 (by its weights).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gradscope.errors import InvalidTypeError, InvalidValueError
from gradscope.lab.randomness import seeded
from gradscope.lab.validation import choice, number

Layer = nn.Linear | nn.modules.conv._ConvNd
M = TypeVar("M", bound=nn.Module)

ALIASES = {"xavier": "xavier_uniform", "kaiming": "kaiming_normal"}
_VARIANCES: dict[str, Callable[[int, int], float]] = {
    "xavier": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "kaiming": lambda fan_in, _: 2 / fan_in,
    "lecun": lambda fan_in, _: 1 / fan_in,
}
NAMES = (
    "default",
    *(f"{family}_{law}" for family in _VARIANCES for law in ("uniform", "normal")),
    "orthogonal",
    "normal",
)
WHOLE = ("critical", "centered_lsuv")
"""Initializations that look at the whole model."""


@dataclass(frozen=True)
class Plan:
    """What to do to every layer; the arguments of ``initialize``, checked."""

    name: str
    weight_var: float | None
    bias_var: float | None
    gain: float
    std: float
    bias: float | None


def initialize(
    model: M,
    name: str = "default",
    *,
    weight_var: float | None = None,
    bias_var: float | None = None,
    gain: float | None = None,
    std: float = 0.01,
    bias: float | None = None,
    sample: Any | None = None,
    seed: int | None = None,
) -> M:
    """Draw the weights and biases of every linear and convolutional layer anew, in place.

    Args:
        model: Its linear and convolutional (also transposed) layers are drawn; other modules stay.
        name: One of ``NAMES`` or ``WHOLE``, or ``xavier`` or ``kaiming``.
        weight_var: sigma_w^2: weights are normal with variance sigma_w^2 / fan_in, biases zero. Goes with
            ``default`` and ``normal``, whose own variance it replaces, and with ``orthogonal``, where it is
            the squared length of the rows.
        bias_var: sigma_b^2: biases are normal with this variance; ``critical`` takes the weight variance that goes with
            it.
        gain: Factor on the standard deviation of the weights; 1 where not given. For ``centered_lsuv`` the standard
            deviation that each unit is given.
        std: Standard deviation of the weights for ``normal``.
        bias: Constant that biases are set to.
        sample: A batch of inputs, as the model takes them (a tuple or mapping stands for several arguments), at least
            256 where there are so many. ``centered_lsuv`` needs it, refuses fewer than 2 samples and warns below 16;
            ``critical`` sees with it which activation function comes between layers, and reads the order in which
            modules are registered where it is not given.
        seed: Makes the draw reproducible and leaves the global random state alone.

    Returns:
        The model.

    Raises:
        UnknownNameError: No such initialization.
        InvalidTypeError: The model is no module.
        InvalidValueError: Arguments contradict each other, the model has no layer to draw, or a sample is missing, or
            it holds NaN or infinity. The model is left as it was.
        GradscopeError: Theory knows no critical variance for an activation function.

    >>> initialize(nn.Linear(3, 2), "kaiming", bias=0.5, seed=0).bias.tolist()
    [0.5, 0.5]
    """
    plan = make_plan(name, weight_var=weight_var, bias_var=bias_var, gain=gain, std=std, bias=bias)
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"model is a torch.nn.Module, not {type(model).__name__}")
    layers = [module for module in model.modules() if isinstance(module, Layer)]
    if not layers:
        raise InvalidValueError(f"{type(model).__name__} has no linear or convolutional layer to initialize")
    if plan.name in WHOLE:
        from gradscope.lab.initialization_whole import draw_whole

        with seeded(seed), torch.no_grad():
            draw_whole(model, plan.name, sample, gain=plan.gain, bias_var=plan.bias_var, bias=plan.bias)
        return model
    with seeded(seed), torch.no_grad():
        for layer in layers:
            _draw_weight(layer, plan)
            _draw_bias(layer, plan)
    return model


def make_plan(
    name: str,
    *,
    weight_var: float | None,
    bias_var: float | None,
    gain: float | None,
    std: float,
    bias: float | None,
) -> Plan:
    """Check the arguments of an initialization and resolve its short names."""
    full = choice("initialization", ALIASES.get(name, name), (*NAMES, *WHOLE))
    if weight_var is not None and full not in ("default", "normal", "orthogonal"):
        raise InvalidValueError(
            f"weight_var= sets the variance of the weights, and so does init {name!r}: give one of them"
        )
    if full == "centered_lsuv" and (bias_var is not None or bias is not None):
        raise InvalidValueError("init 'centered_lsuv' sets the biases so that units are centred: leave them to it")
    if bias_var is not None and bias is not None:
        raise InvalidValueError("bias_var= draws the biases and bias= sets them: give one of them")
    return Plan(
        name=full,
        weight_var=None if weight_var is None else number("weight_var", weight_var, least=0),
        bias_var=None if bias_var is None else number("bias_var", bias_var, least=0),
        gain=1.0 if gain is None else number("gain", gain, least=0),
        std=number("std", std, least=0),
        bias=None if bias is None else number("bias", bias),
    )


def fans(layer: Layer) -> tuple[int, int]:
    """Return fan_in, the inputs one output unit sums over, and fan_out, the outputs one input unit reaches.

    For convolutions both count the taps of the kernel and one group only; strides are not looked at.

    >>> fans(nn.Conv2d(4, 6, (3, 5)))
    (60, 90)
    """
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    taps = math.prod(layer.kernel_size)
    return layer.in_channels // layer.groups * taps, layer.out_channels // layer.groups * taps


def _draw_weight(layer: Layer, plan: Plan) -> None:
    weight = layer.weight
    fan_in, fan_out = fans(layer)
    family, _, law = plan.name.partition("_")
    if plan.name == "orthogonal":
        length = 1.0 if plan.weight_var is None else math.sqrt(plan.weight_var)
        nn.init.orthogonal_(weight, gain=plan.gain * length)
    elif plan.weight_var is not None:
        weight.normal_(0, plan.gain * math.sqrt(plan.weight_var / fan_in))
    elif plan.name == "default":
        layer.reset_parameters()
        weight.mul_(plan.gain)
    elif plan.name == "normal":
        weight.normal_(0, plan.gain * plan.std)
    else:
        _fill(weight, plan.gain * math.sqrt(_VARIANCES[family](fan_in, fan_out)), law)


def _fill(weight: Tensor, std: float, law: str) -> None:
    if law == "normal":
        weight.normal_(0, std)
    else:
        weight.uniform_(-math.sqrt(3) * std, math.sqrt(3) * std)


def _draw_bias(layer: Layer, plan: Plan) -> None:
    if layer.bias is None:
        return
    if plan.bias_var is not None:
        layer.bias.normal_(0, math.sqrt(plan.bias_var))
    elif plan.bias is not None:
        layer.bias.fill_(plan.bias)
    elif plan.name != "default" or plan.weight_var is not None:
        layer.bias.zero_()
