"""What autograd says of every layer call of any model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradscope.probe.layers import find_layers


def tensors(value: object) -> Iterable[Tensor]:
    """All tensors in a nest."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from tensors(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors(one)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from tensors([getattr(value, one.name) for one in dataclasses.fields(value)])


def loss_of(output: object) -> Tensor:
    """A loss in which every entry of every output has a weight of its own."""
    found = [one.reshape(-1) for one in tensors(output)]
    flat = torch.cat(found)
    return (flat * torch.linspace(-1, 1, len(flat), dtype=flat.dtype)).sum() + flat.square().sum()


@dataclass(frozen=True)
class Call:
    """What autograd says of one layer call: its output, and dL/dz, None where the loss does not reach it."""

    layer: str
    call: int
    output: Tensor
    grad: Tensor | None


def truth(model: nn.Module, forward: Callable[[nn.Module], Tensor]) -> list[Call]:
    """Ask autograd about every layer call of a copy; what follows a layer gets a clone, so nothing is lost in place.

    Args:
        model: The model; its parameters' gradients are left alone.
        forward: Runs it and returns its loss.
    """
    seen: list[tuple[str, int, Tensor]] = []
    counts: dict[str, int] = {}

    def keep(name: str) -> Callable[..., Tensor]:
        def hook(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                counts[name] = counts.get(name, 0) + 1
                seen.append((name, counts[name], output))
            return output.clone()

        return hook

    handles = [layer.module.register_forward_hook(keep(layer.name)) for layer in find_layers(model)]
    loss = forward(model)
    grads = torch.autograd.grad(loss, [output for _, _, output in seen], allow_unused=True)
    for handle in handles:
        handle.remove()
    return [Call(name, call, output.detach(), grad) for (name, call, output), grad in zip(seen, grads, strict=True)]


def norm(tensor: Tensor | None) -> float:
    """The norm, NaN where there is nothing to take it of."""
    return math.nan if tensor is None or not tensor.numel() else float(tensor.norm())
