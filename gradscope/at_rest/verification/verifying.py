"""Proof of innocence: train a model with and without a probe, and compare everything bit for bit."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from torch import nn
from torch.amp import GradScaler

from gradscope.at_rest.copies import Loss, Optimizers, Trained, copy_training, default_loss
from gradscope.at_rest.given import check_batch
from gradscope.at_rest.verification.report import Report
from gradscope.at_rest.verification.training import Comparison, side_by_side
from gradscope.at_rest.world import World
from gradscope.errors import InvalidTypeError, InvalidValueError
from gradscope.metrics import registered, select
from gradscope.probe import Probe, watch
from gradscope.probe.layers import LayerFilter
from gradscope.runs.given import whole


def verify(
    model: nn.Module,
    optimizer: Optimizers,
    loss_fn: Loss | None,
    batch: tuple[Any, Any],
    *,
    steps: int = 3,
    every: int = 1,
    metrics: str | Iterable[str] = "all",
    layers: LayerFilter = None,
    scaler: GradScaler | None = None,
) -> Report:
    """Prove that watching changes nothing: train two copies of a model, one watched, and compare them bit for bit.

    Compared are, at every step: losses, gradients (after backward, and again after the optimizer's step), parameters,
    buffers, optimizer state, the batch, training and ``requires_grad`` flags, settings of torch, and the random states
    of torch (CPU and every CUDA device), numpy and Python; and after closing: the hooks and attributes of every module,
    every parameter and the optimizer. NaN equals NaN of the same bits, 0 does not equal -0. Both copies start from the
    same random states. Where they differ, two copies that nobody watches are trained as well, to tell a training that
    does not repeat itself, and then each metric of your own alone, to name the one to blame.

    Model, optimizer, batch and all random states are left as they were; hooks that you set on parameters or on the
    optimizer are no part of the copies.

    Args:
        model: The model, in the mode in which it is to be trained. Called as ``model(x)``, as ``model(*x)`` for a tuple
            and as ``model(**x)`` for a mapping.
        optimizer: The optimizer that holds its parameters, or a callable that makes one from parameters.
        loss_fn: ``loss_fn(model_output, y)``, a tensor with one number; None means cross-entropy for integer targets,
            else mean squared error.
        batch: The pair (x, y) that every step is trained on.
        steps: Number of steps to train.
        every: Record the steps k with k % every == 0.
        metrics: As for ``watch``.
        layers: As for ``watch``.
        scaler: The GradScaler of the training, where there is one; its copies scale the loss and take the steps.

    Returns:
        The report; ``print`` it, or ask ``report.identical``.

    Raises:
        InvalidTypeError: for a batch that is no pair, an optimizer that is none, a loss that is no tensor.
        InvalidValueError: for what cannot be copied, an optimizer of other parameters, a loss that is no single number.
        Exception: what the training itself raises, and what ``watch`` refuses.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 2))
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> verify(model, optimizer, None, (torch.randn(16, 4), torch.randint(0, 2, (16,)))).identical
    True
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"model is a torch.nn.Module, not {type(model).__name__}")
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise InvalidTypeError(f"batch is a pair (x, y), not {_described(batch)}")
    # A training may meet an empty batch.
    check_batch(*batch, empty=True)
    if whole("steps", steps) < 1:
        raise InvalidValueError(f"steps is at least 1, not {steps}")
    whole("every", every)
    wanted = metrics if isinstance(metrics, str) else list(metrics)
    chosen = tuple(one.name for one in select(wanted))
    loss = default_loss if loss_fn is None else loss_fn
    make = partial(copy_training, model, optimizer, loss, (batch[0], batch[1]), scaler)
    before = World.now()
    try:
        with tempfile.TemporaryDirectory(prefix="gradscope-") as folder:
            compare = partial(_compare, make, steps, folder, every, layers)
            found = compare(wanted)
            unstable = side_by_side(make(), make(), steps, None) if found.differences else Comparison()
            guilty = _suspects(chosen, compare) if found.differences and not unstable.differences else ()
    finally:
        before.restore()
    return Report(
        model=type(model).__name__,
        steps=steps,
        every=every,
        metrics=chosen,
        checked=dict(found.checked),
        differences=tuple(found.differences.values()),
        unstable=tuple(unstable.differences.values()),
        suspects=guilty,
    )


def _compare(
    make: Callable[[], Trained], steps: int, folder: str, every: int, layers: LayerFilter, metrics: str | list[str]
) -> Comparison:
    out = tempfile.mkdtemp(dir=folder)

    def watcher(trained: Trained) -> AbstractContextManager[Probe]:
        return watch(
            trained.model,
            trained.optimizer,
            out=out,
            every=every,
            metrics=metrics,
            layers=layers,
            scaler=trained.scaler,
        )

    return side_by_side(make(), make(), steps, watcher)


def _suspects(chosen: Iterable[str], compare: Callable[[list[str]], Comparison]) -> tuple[str, ...]:
    """Metrics from outside gradscope that make a difference alone."""
    known = registered()
    own = [name for name in chosen if not known[name].function.__module__.startswith("gradscope.")]
    return tuple(name for name in own if compare([name]).differences)


def _described(value: object) -> str:
    return f"{len(value)} values" if isinstance(value, tuple | list) else type(value).__name__
