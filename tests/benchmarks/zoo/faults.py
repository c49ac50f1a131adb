"""What is broken on purpose, where a case says so.

========== ===============================================================================================
detached   what hidden layer ``place`` puts out is detached: nothing below learns
dead       biases of -10 in hidden layer ``place`` (-1: in all): no unit of it ever fires
zeros      the weights of hidden layer ``place`` are zero: below it no gradient arrives
nan        one weight of the first layer becomes NaN at step ``place``
infinite   one pixel of one picture becomes infinite at step ``place``
labels     labels are drawn at random at every step
blank      every picture is black
========== ===============================================================================================
"""

from __future__ import annotations

from collections import OrderedDict
from typing import cast

import torch
from torch import Tensor, nn
from zoo.cases import Case

import gradscope as gs

BIAS = -10.0


class Detach(nn.Module):
    """Pass the values on and nothing back."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


def build(case: Case) -> nn.Module:
    """Build the network of a case, with the faults that it is born with."""
    model: nn.Module = getattr(gs.lab, case.network)(seed=case.seed, **case.options)
    strike = {"detached": _detach, "dead": _kill, "zeros": _zero}.get(case.fault)
    if strike is not None:
        strike(cast(nn.Sequential, model.get_submodule("hidden")), case.place)
    return model


def spoil(case: Case, step: int, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the batch of a step, and break what breaks at this step."""
    if case.fault == "nan" and step == case.place:
        with torch.no_grad():
            next(model.parameters()).view(-1)[0] = float("nan")
    if case.fault == "infinite" and step == case.place:
        x = x.clone()
        x.view(-1)[x.numel() // 2] = float("inf")
    if case.fault == "labels":
        y = torch.randint(10, y.shape, generator=torch.Generator().manual_seed(1000 * case.seed + step))
    return (torch.zeros_like(x) if case.fault == "blank" else x), y


def _detach(hidden: nn.Sequential, place: int) -> None:
    block = cast(nn.Sequential, hidden[place])
    hidden[place] = nn.Sequential(OrderedDict([*block.named_children(), ("cut", Detach())]))


def _kill(hidden: nn.Sequential, place: int) -> None:
    for block in hidden if place < 0 else [hidden[place]]:
        nn.init.constant_(cast(Tensor, block.get_submodule("linear").bias), BIAS)


def _zero(hidden: nn.Sequential, place: int) -> None:
    linear = hidden.get_submodule(f"{place}.linear")
    nn.init.zeros_(cast(Tensor, linear.weight))
    nn.init.zeros_(cast(Tensor, linear.bias))
