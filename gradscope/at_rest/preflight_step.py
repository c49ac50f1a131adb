"""The first step of a training, taken on a copy and recorded in memory: forward and backward, nothing updated."""

from __future__ import annotations

import copy
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
import torch
from torch import nn

from gradscope.at_rest.copies import Loss, call_model, default_loss, loss_of
from gradscope.at_rest.reading_copy import copy_input
from gradscope.errors import InvalidTypeError
from gradscope.probe import watch
from gradscope.probe.layers import LayerFilter
from gradscope.runs import Run, load

SEED = 0
"""Of everything random in a recorded step, such as dropout: what is compared is compared alike."""


@contextmanager
def first_step(
    model: nn.Module,
    x: Any,
    y: Any,
    loss_fn: Loss | None,
    *,
    name: str,
    loss_scale: float = 1.0,
    layers: LayerFilter = None,
) -> Iterator[Run]:
    """Record one forward and one backward pass of a model that may be touched; the run is gone afterwards.

    It goes in training mode: nothing is recorded of a model that evaluates. One that is in it keeps the modes of its
    modules.

    Args:
        model: A copy; it is left with gradients.
        x: Inputs; copied.
        y: Targets; copied.
        loss_fn: ``loss_fn(model_output, y)``; None means cross-entropy for integer targets, else mean squared error.
        name: Name of the run.
        loss_scale: What the loss is multiplied by before the backward pass.
        layers: As for ``watch``.

    Raises:
        InvalidTypeError: for a loss that is no function, or that returns no tensor.
        InvalidValueError: for a loss that is no single number, or for a model without layers.
        Exception: what the model itself raises.
    """
    loss = usable_loss(loss_fn)
    if not model.training:
        model.train()
    folder = f"memory://gradscope-{secrets.token_hex(8)}"
    try:
        with watch(model, out=folder, every=1, name=name, layers=layers) as probe:
            seed_all()
            found = loss_of(loss, call_model(model, copy_input(x)), copy_input(y))
            (found * loss_scale).backward()  # type: ignore[no-untyped-call]
            probe.step()
            probe.log(loss=found)
        run = load(folder)
        assert isinstance(run, Run)
        yield run
    finally:
        files = fsspec.filesystem("memory")
        if files.exists(folder):
            files.rm(folder, recursive=True)


def usable_loss(loss_fn: Loss | None) -> Loss:
    """Return the loss to take: a module is copied, so that its parameters and buffers stay as they are.

    Raises:
        InvalidTypeError: for what cannot be called.
    """
    loss = default_loss if loss_fn is None else loss_fn
    if not callable(loss):
        raise InvalidTypeError(f"loss_fn is a function of the model's output and y, not {type(loss).__name__}")
    return copy.deepcopy(loss) if isinstance(loss, nn.Module) else loss


def seed_all() -> None:
    """Seed torch's generators that exist; the caller puts their states back."""
    torch.default_generator.manual_seed(SEED)
    # A CUDA context that does not exist yet is not created, and no seed is left waiting for it.
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(SEED)
