"""Layer-sequential initialization, per unit and centred: every unit sees every sample differently from the start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.at_rest.copies import call_model
from gradscope.at_rest.reading_copy import copy_input
from gradscope.errors import InvalidValueError
from gradscope.probe.layers import Layer, find_layers

LEAST = 1e-6
"""A unit whose standard deviation is below this share of its RMS is the same for all samples, up to rounding."""


def center_units(model: nn.Module, x: Any, *, std: float = 1.0) -> int:
    """Draw all layers anew, in place, such that each unit has mean 0 and standard deviation ``std`` on a sample.

    Weights are drawn orthogonal. Then, layer by layer in the order of execution and in one forward pass, with mean m
    and standard deviation s of a unit's output z over samples (and positions, for a channel of a convolution)::

        w <- w std / s        b <- (b - m) std / s

    A unit that is the same for all samples is centred only; one without a bias is scaled only. Where a layer is called
    again, or its weight is that of another layer, the first call decides. Batch normalization uses the sample's
    statistics, dropout drops nothing; buffers and training flags come back as they were. The global generators draw.

    Args:
        model: Its linear and convolutional (also transposed) layers are drawn.
        x: The sample.
        std: Standard deviation that each unit is given.

    Returns:
        The fewest values that a unit was fitted to: samples, times positions for a channel of a convolution.

    Raises:
        InvalidValueError: The model has no layer, a layer computes its weight or returns NaN or infinity, or the sample
            has fewer than 2 samples.
        Exception: what the model itself raises.
    """
    layers = find_layers(model)
    for layer in layers:
        _draw(layer)
    seen: dict[int, int] = {}
    handles = [layer.module.register_forward_hook(partial(_center, layer, std, seen)) for layer in layers]
    try:
        with torch.no_grad(), _as_in_training(model):
            call_model(model, copy_input(x))
    finally:
        for handle in handles:
            handle.remove()
    return min(seen.values(), default=0)


def _draw(layer: Layer) -> None:
    weight = plain_weight(layer)
    # Half precision has no QR decomposition.
    drawn = torch.empty_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
    nn.init.orthogonal_(drawn)
    with torch.no_grad():
        weight.copy_(drawn)
        if layer.bias is not None:
            layer.bias.zero_()


def plain_weight(layer: Layer) -> nn.Parameter:
    """Return the weight of a layer.

    Raises:
        InvalidValueError: It is computed from other parameters, or has no shape yet.
    """
    if layer.weight is None:
        raise InvalidValueError(
            f"layer {layer.name!r} computes its weight (a parametrization), or has no shape yet: it cannot be drawn"
        )
    return layer.weight


def _center(layer: Layer, std: float, seen: dict[int, int], _: nn.Module, given: Any, output: Tensor) -> Tensor | None:
    weight = plain_weight(layer)
    if id(weight) in seen:
        return None
    units = output.detach().movedim(layer.unit_dim, -1).flatten(0, -2).double()
    seen[id(weight)] = len(units)
    if len(units) < 2:
        raise InvalidValueError(f"layer {layer.name!r} sees {len(units)} sample; units are centred over at least 2")
    if not bool(torch.isfinite(units).all()):
        raise InvalidValueError(f"layer {layer.name!r} returns NaN or infinity on the sample: nothing to centre")
    mean, spread = units.mean(0), units.std(0)
    rms = units.square().mean(0).sqrt()
    scale = torch.where(spread > LEAST * rms, std / spread, 1.0)
    weight.mul_(_per_unit(layer, scale).to(weight.dtype))
    shaped = [-1 if dim == layer.unit_dim + output.dim() else 1 for dim in range(output.dim())]
    changed = output.double() * scale.view(shaped)
    if layer.bias is not None:
        layer.bias.copy_((layer.bias.double() - mean) * scale)
        changed = changed - (mean * scale).view(shaped)
    return changed.to(output.dtype)


def _per_unit(layer: Layer, scale: Tensor) -> Tensor:
    """Return one factor per unit in a shape that multiplies the weight."""
    weight, module = plain_weight(layer), layer.module
    rest = (1,) * (weight.dim() - 2)
    if not isinstance(module, nn.modules.conv._ConvTransposeNd):
        return scale.view(-1, 1, *rest)
    # Inputs come first in a transposed convolution, group by group.
    per_group = scale.view(module.groups, 1, -1).expand(-1, module.in_channels // module.groups, -1)
    return per_group.reshape(module.in_channels, -1, *rest)


@contextmanager
def _as_in_training(model: nn.Module) -> Iterator[None]:
    """Let batch normalization take the statistics of the sample, and nothing be dropped; restore flags and buffers."""
    flags = {module: module.training for module in model.modules()}
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    for module in flags:
        module.training = isinstance(module, nn.modules.batchnorm._BatchNorm)
    try:
        yield
    finally:
        for module, flag in flags.items():
            module.training = flag
        for buffer, value in kept:
            buffer.copy_(value)
