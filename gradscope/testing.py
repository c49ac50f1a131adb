"""Assertions for a project's own tests: gradients reach every layer of a model before it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from gradscope.at_rest.copies import Loss
from gradscope.at_rest.preflight_step import first_step
from gradscope.at_rest.reading_copy import copy_model, undisturbed
from gradscope.errors import InvalidTypeError, InvalidValueError
from gradscope.probe.layers import find_layers

SIGNAL = "output_grad_norm"


def assert_gradient_flow(
    model: nn.Module, sample: tuple[Any, Any], decades: float = 3.0, *, loss_fn: Loss | None = None
) -> None:
    """Assert that the output gradients of all layers lie within so many decades of each other.

    With |dL/dz_l| the norm of the output gradient of layer l, for one forward and one backward pass of a copy::

        log10(max_l |dL/dz_l| / min_l |dL/dz_l|) <= decades

    Only ratios count: the scale of the loss, the size of the batch and the width do not matter. A gradient that is
    exactly zero, NaN or infinite fails at any number of decades, and so does a layer that no gradient reaches, or that
    is not called, unless it is frozen. Model and random states are left as they were, bit for bit.

    Args:
        model: The model; its copy goes in training mode, and of a model that is in it, the modules keep their own.
        sample: The pair (x, y) of inputs and targets.
        decades: Most powers of ten between the largest and the smallest norm.
        loss_fn: ``loss_fn(model_output, y)``; None means cross-entropy for integer targets, else mean squared error.

    Raises:
        AssertionError: They lie further apart; the message shows every layer.
        InvalidTypeError: for a sample that is no pair, or decades that are no number.
        InvalidValueError: for a negative number of decades, or a model without layers.

    >>> import torch
    >>> from gradscope import lab
    >>> sample = torch.rand(64, 64), torch.arange(64) % 10
    >>> assert_gradient_flow(lab.mlp(depth=8, activation="relu", init="kaiming", seed=0), sample)
    >>> deep = lab.mlp(depth=8, activation="sigmoid", init="xavier", seed=0)
    >>> assert_gradient_flow(deep, sample)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    AssertionError: the output gradients of 9 layers span ... decades, more than 3:
    ...
    """
    if not isinstance(sample, tuple | list) or len(sample) != 2:
        raise InvalidTypeError(f"sample is the pair (x, y), not {type(sample).__name__}")
    if isinstance(decades, bool) or not isinstance(decades, int | float):
        raise InvalidTypeError(f"decades is a number, not {type(decades).__name__}")
    if not decades >= 0:
        raise InvalidValueError(f"decades is a number from 0 on, not {decades!r}")
    with undisturbed():
        twin = copy_model(model, "assert_gradient_flow")
        trained = [one.name for one in find_layers(twin) if _trains(one.module)]
        with first_step(twin, *sample, loss_fn, name=type(twin).__name__) as run:
            called = [(one.depth, one.layer) for one in run.specs]
            norms = run.profile(SIGNAL) if run.steps(SIGNAL) else pd.Series(dtype=np.float64)
    found = [(str(depth), layer, norms.get(depth)) for depth, layer in called if layer in trained]
    known = {layer for _, layer in called}
    found += [("-", layer, None) for layer in trained if layer not in known]
    fault = _fault([norm for _, _, norm in found], decades)
    if fault:
        raise AssertionError(f"{fault}:\n{_profile(found)}")


def _trains(layer: nn.Module) -> bool:
    """Tell whether anything of a layer is trained: a frozen one may go without a gradient."""
    return any(one.requires_grad for one in layer.parameters())


def _fault(found: Sequence[float | None], decades: float) -> str:
    """Say what is wrong with the norms of all layers, None where there is none; empty where nothing is wrong."""
    count, norms = len(found), np.array([one for one in found if one is not None], np.float64)
    faults = {
        "no gradient reaches {} of {} layers": count - len(norms),
        "the output gradient of {} of {} layers is NaN or infinite": int((~np.isfinite(norms)).sum()),
        "the output gradient of {} of {} layers is exactly zero": int((norms == 0.0).sum()),
    }
    for text, many in faults.items():
        if many:
            return text.format(many, count)
    span = float(np.log10(norms.max() / norms.min())) if count else 0.0
    return f"the output gradients of {count} layers span {span:.1f} decades, more than {decades:g}" * (span > decades)


def _profile(found: Sequence[tuple[str, str, float | None]]) -> str:
    width = max(len(layer) for _, layer, _ in found)
    return "\n".join(
        f"  {depth:>4}  {layer:<{width}}  {'no gradient' if norm is None else f'{norm:.3e}'}"
        for depth, layer, norm in found
    )
