"""Initializations that look at the whole model: at its activation functions, or at what it makes of a sample."""

from __future__ import annotations

from typing import Any

from torch import nn

from gradscope.at_rest.remedies.critical import draw_critical
from gradscope.at_rest.remedies.lsuv import center_units
from gradscope.at_rest.remedies.phi import activations_of
from gradscope.errors import InvalidValueError


def draw_whole(
    model: nn.Module, name: str, sample: Any | None, *, gain: float, bias_var: float | None, bias: float | None
) -> None:
    """Draw all layers of a model, in place; see ``initialize``.

    Raises:
        InvalidValueError: A sample is missing, or an activation function cannot be told without one.
        GradscopeError: Theory knows no critical variance.
    """
    if name == "centered_lsuv":
        if sample is None:
            raise InvalidValueError(
                "init 'centered_lsuv' fits units to a sample of inputs: initialize(model, 'centered_lsuv', sample=x), "
                "once the model is built"
            )
        center_units(model, sample, std=gain)
        return
    draw_critical(model, activations_of(model, sample), bias_var, gain=gain, bias=bias)
