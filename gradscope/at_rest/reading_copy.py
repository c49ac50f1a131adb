"""A copy of a model to look at, while the model itself and all that the process shares stay as they are."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.at_rest.copies import histories
from gradscope.at_rest.world import World
from gradscope.errors import InvalidTypeError, InvalidValueError
from gradscope.probe.compiled import unwrap


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let gradients be computed inside, whatever the caller's mode; put random states and settings back at the end."""
    before = World.now()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        before.restore()


def copy_model(model: nn.Module, purpose: str, train: bool | None = None) -> nn.Module:
    """Copy a model without gradients, freed of the wrappers of ``torch.compile`` and distributed training.

    Args:
        model: The model.
        purpose: Who wants the copy, for the message of an error.
        train: The mode of the copy; None for that of the model.

    Raises:
        InvalidTypeError: if the model is no module, or ``train`` no truth value.
        InvalidValueError: if it cannot be copied.
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"model is a torch.nn.Module, not {type(model).__name__}")
    if train is not None and not isinstance(train, bool):
        raise InvalidTypeError(f"train is True, False or None, not {train!r}")
    original = unwrap(model)
    try:
        twin: nn.Module = copy.deepcopy(original, histories(original))
    except Exception as error:
        text = f"model cannot be copied, and {purpose} works on a copy: {type(error).__name__}: {error}"
        raise InvalidValueError(text) from error
    for parameter in twin.parameters():
        parameter.grad = None
    return twin if train is None else twin.train(train)


def copy_input(x: Any, dtype: torch.dtype | None = None) -> Any:
    """Copy the tensors of a nest, without history; floating-point ones in ``dtype`` where that is given."""
    if isinstance(x, Tensor):
        clone = x.detach().clone()
        return clone if dtype is None or not clone.is_floating_point() else clone.to(dtype)
    if isinstance(x, Mapping):
        return {key: copy_input(one, dtype) for key, one in x.items()}
    if isinstance(x, tuple | list):
        return type(x)(copy_input(one, dtype) for one in x) if type(x) in (tuple, list) else x
    return x
