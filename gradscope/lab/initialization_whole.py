"""Initializations that look at the whole model: at its activation functions, or at what it makes of a sample."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from gradscope.at_rest.given import check_batch, check_finite
from gradscope.at_rest.remedies.critical import draw_critical
from gradscope.at_rest.remedies.lsuv import center_units
from gradscope.at_rest.remedies.phi import activations_of
from gradscope.errors import InvalidValueError

FEW = 16
"""Values of a unit below which its standard deviation is known to no better than 18 %, 1 / sqrt(2 (n - 1))."""


def draw_whole(
    model: nn.Module, name: str, sample: Any | None, *, gain: float, bias_var: float | None, bias: float | None
) -> None:
    """Draw all layers of a model, in place; see ``initialize``. Where that fails the model is left as it was.

    Raises:
        InvalidTypeError: The sample is a numpy array.
        InvalidValueError: A sample is missing, is empty, or holds NaN or infinity, or an activation function cannot be
            told without one.
        GradscopeError: Theory knows no critical variance.
    """
    if name == "centered_lsuv":
        if sample is None:
            raise InvalidValueError(
                "init 'centered_lsuv' fits units to a sample of inputs: initialize(model, 'centered_lsuv', sample=x), "
                "once the model is built"
            )
        _check_sample(sample)
        with _all_or_nothing(model):
            fewest = center_units(model, sample, std=gain)
        if fewest < FEW:
            warnings.warn(
                f"init 'centered_lsuv' fits each unit to {fewest} values of the sample: give at least {FEW} samples, "
                "better 256",
                stacklevel=3,
            )
        return
    if sample is not None:
        _check_sample(sample)
    with _all_or_nothing(model):
        draw_critical(model, activations_of(model, sample), bias_var, gain=gain, bias=bias)


def _check_sample(sample: Any) -> None:
    check_batch(sample, names=("sample", "y"))
    check_finite("sample", sample)


@contextmanager
def _all_or_nothing(model: nn.Module) -> Iterator[None]:
    """Put the parameters back where what is done to them fails."""
    kept = [(one, one.detach().clone()) for one in model.parameters() if not isinstance(one, UninitializedParameter)]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for one, value in kept:
                one.copy_(value)
        raise
