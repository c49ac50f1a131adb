"""Remedies: each is tried on a copy of a model, or says why this model cannot take it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from gradscope.at_rest.copies import Loss, call_model
from gradscope.at_rest.reading_copy import copy_input, copy_model
from gradscope.at_rest.trials.measure import Profile
from gradscope.checks import NotApplicable

MakeOptimizer = Callable[[Any], Optimizer]


@dataclass(frozen=True)
class Patient:
    """What a remedy is given.

    Attributes:
        original: The model; a remedy changes copies of it only.
        x: Inputs.
        y: Targets.
        loss_fn: The loss; None means cross-entropy for integer targets, else mean squared error.
        before: What was measured of the model as it is.
        make_optimizer: From parameters to the optimizer of the training; None where it is not known.
    """

    original: nn.Module
    x: Any
    y: Any
    loss_fn: Loss | None
    before: Profile
    make_optimizer: MakeOptimizer | None = None

    @property
    def underflow(self) -> str:
        """The metric that shows what float16 loses: what it has lost, or, in a wider precision, what it would."""
        half = any(one.dtype == torch.float16 for one in self.original.parameters())
        return "output_grad_zero_fraction" if half else "fp16_underflow_fraction"

    def copy(self) -> nn.Module:
        """Return a fresh copy of the model."""
        return copy_model(self.original, "trial")

    def fed(self, given: Treatment) -> Patient:
        """Return this with the batch as the treated copy takes it."""
        if given.dtype is None:
            return self
        return replace(self, x=copy_input(self.x, given.dtype), y=copy_input(self.y, given.dtype))

    def shapes(self) -> dict[str, Shapes]:
        """Return, by qualified name, the shapes that go into and come out of every module in a forward pass."""
        twin, found = self.copy(), dict[str, Shapes]()
        for name, module in twin.named_modules():
            module.register_forward_hook(_Noted(name, found))
        with torch.no_grad():
            call_model(twin, copy_input(self.x))
        return found


@dataclass(frozen=True)
class Shapes:
    """Shapes of the first input and the first output of a module; empty for what is no tensor.

    Attributes:
        input: Of the input.
        output: Of the output.
        order: Place of the module's last call among those of all modules.
        calls: How often it was called.
    """

    input: tuple[int, ...]
    output: tuple[int, ...]
    order: int
    calls: int


@dataclass(frozen=True)
class Treatment:
    """A remedy applied to a copy.

    Attributes:
        what: What was done, in words.
        model: The copy.
        loss_scale: What the loss is multiplied by before the backward pass.
        make_optimizer: From parameters to the optimizer that trains it, where the remedy changes it.
        clip: Norm that the gradient of all parameters is clipped to, where the remedy clips it.
        dtype: What floating-point inputs and targets are converted to, where the remedy changes it.
        variant: Which one, where there are several.
        stand_in: What theory looks at in the place of the copy: the same function in a form that theory knows.
        foreseeable: Whether theory has something to say of the copy.
    """

    what: str
    model: nn.Module
    loss_scale: float = 1.0
    make_optimizer: MakeOptimizer | None = None
    clip: float | None = None
    dtype: torch.dtype | None = None
    variant: str = ""
    stand_in: nn.Module | None = None
    foreseeable: bool = True


Remedy = Callable[[Patient], list[Treatment] | NotApplicable]
"""Applies a remedy to fresh copies, one or several variants of it."""


class _Noted:
    """A forward hook that notes shapes; a class, so that a model that holds it can be copied."""

    def __init__(self, name: str, found: dict[str, Shapes]) -> None:
        self.name, self.found = name, found

    def __call__(self, _: nn.Module, given: Any, output: Any) -> None:
        so_far = self.found.get(self.name)
        order = sum(one.calls for one in self.found.values())
        calls = so_far.calls + 1 if so_far else 1
        self.found[self.name] = Shapes(_shape(given), _shape(output), order, calls)


def _shape(value: Any) -> tuple[int, ...]:
    first = value[0] if isinstance(value, tuple | list) and value else value
    return tuple(first.shape) if isinstance(first, torch.Tensor) else ()
