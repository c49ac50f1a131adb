"""Copies of a training: model, optimizer, loss and batch together, so that nothing of the original is touched."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from gradscope.errors import InvalidTypeError, InvalidValueError

Loss = Callable[[Any, Any], Tensor]
Optimizers = Optimizer | Callable[[Any], Optimizer]


@dataclass(frozen=True)
class Trained:
    """One copy of a training.

    Attributes:
        model: The model.
        optimizer: Its optimizer, which holds this model's parameters.
        loss_fn: ``loss_fn(model(x), y)``; copied as well where it is a module.
        batch: The inputs and the targets.
        scaler: Its GradScaler, where there is one.
    """

    model: nn.Module
    optimizer: Optimizer
    loss_fn: Loss
    batch: tuple[Any, Any]
    scaler: GradScaler | None = None

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        """All modules by qualified name, those of the loss under ``loss_fn``."""
        yield from self.model.named_modules()
        if isinstance(self.loss_fn, nn.Module):
            yield from self.loss_fn.named_modules(prefix="loss_fn")

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All parameters by qualified name, but those a lazy module has yet to shape."""
        owners = [("", self.model), ("loss_fn", self.loss_fn)]
        for prefix, owner in owners:
            for name, parameter in owner.named_parameters(prefix=prefix) if isinstance(owner, nn.Module) else ():
                if not isinstance(parameter, UninitializedParameter):
                    yield name, parameter

    def loss(self) -> Tensor:
        """Forward pass and loss.

        Raises:
            InvalidTypeError: if the loss is no tensor.
            InvalidValueError: if it is no single number, or needs no gradient.
        """
        x, y = self.batch
        return loss_of(self.loss_fn, call_model(self.model, x), y)


def copy_training(
    model: nn.Module, optimizer: Optimizers, loss_fn: Loss, batch: tuple[Any, Any], scaler: GradScaler | None = None
) -> Trained:
    """Copy a training.

    Raises:
        InvalidTypeError: for an optimizer that is none, and makes none.
        InvalidValueError: for what cannot be copied, or an optimizer of other parameters.
    """
    memo = histories(model)
    twin = _copied("model", model, memo)
    # A function is shared by all copies; a module has parameters and buffers of its own.
    loss = _copied("loss_fn", loss_fn, memo) if isinstance(loss_fn, nn.Module) else loss_fn
    pair, scaling = _copied("batch", batch, memo), _copied("scaler", scaler, memo)
    if isinstance(optimizer, Optimizer):
        _refuse_strangers(optimizer, model, loss_fn)
        return Trained(twin, _copied_optimizer(optimizer, memo), loss, pair, scaling)
    made = optimizer(twin.parameters()) if callable(optimizer) else optimizer
    if not isinstance(made, Optimizer):
        given = f"a callable that returns {type(made).__name__}" if callable(optimizer) else type(made).__name__
        raise InvalidTypeError(f"optimizer is a torch.optim.Optimizer or makes one from parameters, not {given}")
    _refuse_strangers(made, twin, loss)
    return Trained(twin, made, loss, pair, scaling)


def default_loss(output: Any, y: Any) -> Tensor:
    """Cross-entropy for integer targets, else mean squared error.

    Raises:
        InvalidTypeError: if the model's output or the targets are no tensors.
    """
    for name, value in (("the model returns", output), ("the targets are", y)):
        if not isinstance(value, Tensor):
            raise InvalidTypeError(f"loss_fn is needed: {name} {type(value).__name__}, not a tensor")
    return F.mse_loss(output, y) if y.is_floating_point() else F.cross_entropy(output, y)


def loss_of(loss_fn: Loss, output: Any, y: Any) -> Tensor:
    """Return the loss of a model's output, one number.

    Raises:
        InvalidTypeError: if it is no tensor.
        InvalidValueError: if it is no single number, or needs no gradient; or if output and targets do not go together
            in a cross-entropy or a mean squared error.
        Exception: what any other loss raises.
    """
    try:
        found = loss_fn(output, y)
    except (RuntimeError, IndexError, ValueError) as error:
        known = loss_fn in (default_loss, F.cross_entropy, F.mse_loss) or type(loss_fn) in _KNOWN
        why = _apart(output, y) if known and isinstance(output, Tensor) and isinstance(y, Tensor) else ""
        if not why:
            raise
        raise InvalidValueError(why) from error
    return single_loss(found)


_KNOWN = (nn.CrossEntropyLoss, nn.MSELoss)


def _apart(output: Tensor, y: Tensor) -> str:
    """Say why a model's output and its targets do not go together; empty where they do."""
    shape, given = tuple(output.shape), tuple(y.shape)
    if y.is_floating_point():
        return "" if shape == given else f"the model returns shape {shape}, and y has shape {given}"
    if not shape:
        return f"the model returns a single number, and y holds labels of shape {given}"
    classes, wanted = shape[min(1, len(shape) - 1)], (shape[0], *shape[2:]) if len(shape) > 1 else ()
    if given != wanted:
        return f"the model returns shape {shape}, {classes} classes, so y has shape {wanted}, not {given}"
    if y.dtype != torch.int64:
        return f"y is {y.dtype}, and labels are torch.int64: give y.long()"
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        return f"y holds labels from {low} to {high}, and the model returns {classes} classes: 0 to {classes - 1}"
    return ""


def single_loss(found: Any) -> Tensor:
    """Return what a loss function gave, if it is one number that a backward pass can start from.

    Raises:
        InvalidTypeError: if it is no tensor.
        InvalidValueError: if it is no single number, or needs no gradient.
    """
    if not isinstance(found, Tensor):
        raise InvalidTypeError(f"loss_fn returns a tensor with one number, not {type(found).__name__}")
    if found.numel() != 1:
        raise InvalidValueError(f"loss_fn returns a single number, not a tensor of shape {tuple(found.shape)}")
    if not found.requires_grad:
        raise InvalidValueError("the loss needs no gradient: no parameter of the model reaches it")
    return found


def call_model(model: nn.Module, x: Any) -> Any:
    """Call ``model(x)``, ``model(*x)`` for a tuple, ``model(**x)`` for a mapping."""
    if isinstance(x, tuple):
        return model(*x)
    return model(**x) if isinstance(x, Mapping) else model(x)


def histories(model: nn.Module) -> dict[int, Any]:
    """Copies of tensors that modules keep with their history, such as a pruned weight: torch copies only leaves."""
    kept = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    return {id(value): value.detach().clone() for value in kept if not value.is_leaf}


def _copied(name: str, value: Any, memo: dict[int, Any]) -> Any:
    try:
        return copy.deepcopy(value, memo)
    except Exception as error:
        text = f"{name} cannot be copied, and verify trains copies: {type(error).__name__}: {error}"
        raise InvalidValueError(text) from error


def _copied_optimizer(optimizer: Optimizer, memo: dict[int, Any]) -> Optimizer:
    twin: Optimizer = _copied("optimizer", optimizer, memo)
    # An optimizer is copied like its pickle, which lacks what a class such as LBFGS adds. Functions, such as the step
    # that a scheduler wraps, would act on the original.
    for name, value in vars(optimizer).items():
        if name not in vars(twin) and not callable(value):
            setattr(twin, name, _copied("optimizer", value, memo))
    return twin


def _refuse_strangers(optimizer: Optimizer, model: nn.Module, loss_fn: Loss) -> None:
    owners = [one for one in (model, loss_fn) if isinstance(one, nn.Module)]
    known = {id(parameter) for owner in owners for parameter in owner.parameters()}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    strangers = sum(id(parameter) not in known for parameter in held)
    if strangers:
        raise InvalidValueError(
            f"optimizer holds {strangers} of {len(held)} parameters that are not the model's; give the optimizer of "
            "this very model, or a callable that makes one from its parameters"
        )
