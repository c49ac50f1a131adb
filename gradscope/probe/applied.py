"""Which backward passes the gradients are made of that an optimizer applies: what was zeroed before it trains nothing.

A loss that is not finite and whose step is left out, an attack on the input by ``backward``, the critic's part of a
generator's step: ``zero_grad`` throws their gradients away. No hook tells of that; the next gradient does, which does
not add to one that is there but starts anew.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradscope.probe.layers import Layer


class Applied:
    """Follows the gradients of weights within one step."""

    def __init__(self) -> None:
        # Where the gradient lies, its version, and the passes it is made of.
        self._made_of: dict[Layer, tuple[int, int, list[int]]] = {}
        self._all: dict[Layer, list[int]] = {}
        self._dropped: set[int] = set()
        self._applied: set[int] = set()
        self._is_sure = False

    def clear(self) -> None:
        """Begin a step."""
        self._made_of.clear()
        self._all.clear()
        self._dropped.clear()
        self._applied.clear()
        self._is_sure = False

    def arrived(self, layer: Layer, grad: Tensor, task: int) -> None:
        """Learn that a backward pass has added to a gradient, or made it."""
        if type(grad) is not Tensor or grad.layout is not torch.strided:
            return
        place, version = grad.data_ptr(), grad._version
        before = self._made_of.get(layer)
        tasks = [task]
        if before is not None:
            # A sum is made in place, except under create_graph.
            if torch.is_grad_enabled() or (before[0] == place and before[1] < version):
                tasks = [*before[2], task]
            else:
                self._dropped.update(before[2])
            self._all[layer] = [*self._all.get(layer, before[2]), task]
        self._made_of[layer] = place, version, tasks

    def apply(self, layer: Layer, grad: Tensor | None) -> None:
        """Learn what an optimizer applies: a gradient that somebody else has put there may be made of any of them."""
        before = self._made_of.get(layer)
        if before is None or grad is None:
            return
        if type(grad) is Tensor and grad.data_ptr() == before[0] and grad._version >= before[1]:
            self._applied.update(before[2])
            self._is_sure = True
        else:
            self._applied.update(self._all.get(layer, before[2]))

    @property
    def dropped(self) -> set[int]:
        """Passes of which no optimizer applies anything; none where that is not known."""
        return self._dropped - self._applied if self._is_sure else set()
