"""Weights that a layer computes for each call (a parametrization, pruning): what the forward pass used of them.

Such a weight is no parameter. Asking the module for it once more would compute it once more, and change the buffers of
a spectral norm: it is taken where the forward pass makes it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.probe.distributed import world_size
from gradscope.probe.hooks import on_gradient
from gradscope.probe.layers import Layer


@dataclass(eq=False, slots=True)
class Computed:
    """A computed weight in one recorded step.

    Attributes:
        weight: As the last call used it.
        grads: Its gradient by backward pass, added up over the calls.
    """

    weight: Tensor
    grads: dict[int, Tensor] = field(default_factory=dict)

    def add(self, grad: Tensor) -> None:
        """Add the gradient that a call sent to its weight."""
        task = torch._C._current_graph_task_id()
        before = self.grads.get(task)
        self.grads[task] = grad.detach() if before is None else before + grad

    def grad(self, trained: Set[int]) -> Tensor | None:
        """The gradient of the backward passes that trained something; of all where none is known to have."""
        counted = [grad for task, grad in self.grads.items() if not trained or task in trained]
        return sum(counted[1:], counted[0]) if counted else None


class ComputedWeights:
    """The computed weights of one recorded step."""

    def __init__(self) -> None:
        self._found: dict[Layer, Computed] = {}
        self._made: dict[Layer, Tensor] = {}
        self._last: dict[Layer, weakref.ref[Tensor]] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    @property
    def names(self) -> frozenset[str]:
        """Layers whose weights were seen."""
        return frozenset(layer.name for layer in self._found)

    def clear(self) -> None:
        """Forget everything."""
        self._found.clear()
        self._made.clear()
        self._last.clear()

    def made(self, layer: Layer, weight: object) -> None:
        """Note the weight that a parametrization made; the call that it was made for is still to come."""
        if isinstance(weight, Tensor):
            self._made[layer] = weight

    def used(self, layer: Layer, module: nn.Module) -> None:
        """Note that a layer was called: with what its parametrization made, or with what a hook put in its place."""
        weight = self._made.pop(layer, None)
        weight = module.__dict__.get("weight") if weight is None else weight
        if not isinstance(weight, Tensor) or world_size() > 1:
            return  # of several ranks, each has a gradient of its own
        found = self._found.get(layer)
        if found is None:
            found = self._found[layer] = Computed(weight.detach())
        elif self._last[layer]() is weight:
            return  # made once for several calls: its gradient is the sum
        found.weight, self._last[layer] = weight.detach(), weakref.ref(weight)
        if weight.grad_fn is not None:
            on_gradient(weight, found.add)

    def read(self, trained: Set[int]) -> Iterator[tuple[Layer, dict[str, Tensor | None]]]:
        """Layers with their signals.

        Args:
            trained: Backward passes that trained something.
        """
        for layer, one in self._found.items():
            yield layer, {"weight": one.weight, "weight_grad": one.grad(trained)}


def parametrization_of(module: nn.Module) -> Any | None:
    """Return what makes the weight of a module; None where nothing does."""
    found = module._modules.get("parametrizations")
    return found["weight"] if isinstance(found, nn.ModuleDict) and "weight" in found else None
