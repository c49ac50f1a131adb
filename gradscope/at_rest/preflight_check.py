"""The check before the first step: what a model's gradients will do, told from one batch."""

from __future__ import annotations

from typing import Any

from torch import nn

from gradscope.at_rest.copies import Loss
from gradscope.at_rest.given import check_batch
from gradscope.at_rest.preflight_step import first_step
from gradscope.at_rest.reading_copy import copy_model, undisturbed
from gradscope.checks import Findings, diagnose


def preflight(model: nn.Module, x: Any, y: Any, loss_fn: Loss | None = None) -> Findings:
    """Make every check on a model before its first step, from one forward and one backward pass of a copy.

    The model is left as it was, bit for bit: parameters, gradients, buffers, training flags and hooks; so are all
    random states. Nothing is written to disk. The copy runs in training mode; of a
    model that is in it, the modules keep their own. Hooks that are set on the model's modules are part of the copy, and
    run.

    Args:
        model: The model, untrained or not. Called as ``model(x)``, as ``model(*x)`` for a tuple and as ``model(**x)``
            for a mapping.
        x: Inputs of one batch; at least 64 samples, so that a unit can be called dead.
        y: Its targets.
        loss_fn: ``loss_fn(model_output, y)``, a tensor with one number; None means cross-entropy for integer targets,
            else mean squared error.

    Returns:
        The findings, worst first. What needs the history of a training, such as the ratio of updates to weights, is
        listed in ``not_applicable`` with its reason.

    Raises:
        InvalidTypeError: for a model that is no module, a numpy array, or a loss that is no tensor.
        InvalidValueError: for a model that cannot be copied or has no layers, an empty batch, targets that do not go
            with the model's output, or a loss that is no single number.
        Exception: what the model itself raises.

    >>> import torch
    >>> from gradscope import lab
    >>> model = lab.mlp(depth=20, activation="sigmoid", init="xavier", seed=0)
    >>> x, y = torch.rand(64, 64), torch.arange(64) % 10
    >>> "vanishing" in preflight(model, x, y).codes
    True
    """
    check_batch(x, y)
    with undisturbed():
        twin = copy_model(model, "preflight")
        with first_step(twin, x, y, loss_fn, name=f"preflight of {type(twin).__name__}") as run:
            return diagnose(run)
