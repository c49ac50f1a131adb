"""Weights on the edge of chaos: by theory, the variance at which the gradient keeps its size from layer to layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import nn

from gradscope.at_rest.remedies.lsuv import plain_weight
from gradscope.errors import GradscopeError
from gradscope.probe.layers import find_layers
from gradscope.theory import Activation, critical, stationary_criticality


def draw_critical(
    model: nn.Module,
    activations: Mapping[str, Activation],
    bias_var: float | None = None,
    *,
    gain: float = 1.0,
    bias: float | None = None,
) -> None:
    """Draw all layers anew, in place: weights normal with the critical variance, biases with ``bias_var``, or zero.

    Args:
        model: Its linear and convolutional (also transposed) layers are drawn.
        activations: By layer, the activation function to be critical with.
        bias_var: sigma_b^2; None as for `critical_point`.
        gain: Factor on the standard deviation of the weights.
        bias: Constant that biases are set to instead.

    Raises:
        InvalidValueError: A layer computes its weight.
        GradscopeError: An activation function has no critical variance.
    """
    for layer in find_layers(model):
        weight = plain_weight(layer)
        weight_var, around = critical_point(activations[layer.name], bias_var)
        with torch.no_grad():
            weight.normal_(0, gain * math.sqrt(weight_var / layer.fans[0]))
            if layer.bias is not None:
                layer.bias.normal_(0, math.sqrt(around)) if bias is None else layer.bias.fill_(bias)


@lru_cache(maxsize=64)
def critical_point(activation: Activation, bias_var: float | None = None) -> tuple[float, float]:
    """Return the variances of weights (times fan_in) and biases at which chi = 1.

    Where ``bias_var`` is None, biases are zero, unless there is no stable critical point without biases, as for GELU
    and SiLU: then it is the point at which the size of the signal is stationary as well (Roberts, Yaida and Hanin
    2022).

    Raises:
        GradscopeError: There is no such point.

    >>> from gradscope.theory import activation_of
    >>> critical_point(activation_of("relu"))
    (2.0, 0.0)
    """
    try:
        return critical(activation, bias_var or 0.0), bias_var or 0.0
    except GradscopeError:
        if bias_var is not None:
            raise
    found = stationary_criticality(activation)
    return found.weight_var, found.bias_var
