"""A few steps on the batch: whether a model learns it at all."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Optimizer

from gradscope.at_rest.copies import call_model, loss_of
from gradscope.at_rest.preflight_step import seed_all, usable_loss
from gradscope.at_rest.reading_copy import copy_input, copy_model
from gradscope.at_rest.remedies.registry import MakeOptimizer, Patient, Treatment
from gradscope.errors import InvalidTypeError

RATES = (0.01, 0.1, 1.0)
"""Learning rates of plain SGD that are tried where the optimizer is not known; the best counts."""


def loss_after(patient: Patient, given: Treatment, steps: int) -> float:
    """Return the loss after some steps on the batch, taken on copies; NaN for no steps, inf where it diverges."""
    if not steps:
        return math.nan
    make = given.make_optimizer or patient.make_optimizer
    makers = [_sgd(rate) for rate in RATES] if make is None else [make]
    return min(_train(patient, given, one, steps) for one in makers)


def maker(optimizer: object) -> MakeOptimizer | None:
    """Return what makes an optimizer like the one given, from parameters.

    Raises:
        InvalidTypeError: It is neither an optimizer nor a callable.
    """
    if optimizer is None:
        return None
    if isinstance(optimizer, Optimizer):
        kind, defaults = type(optimizer), dict(optimizer.defaults)
        rate = optimizer.param_groups[0].get("lr") if optimizer.param_groups else None
        settings = defaults if rate is None else {**defaults, "lr": rate}
        return lambda parameters: kind(parameters, **settings)
    if callable(optimizer):
        return optimizer
    raise InvalidTypeError(
        f"optimizer is a torch.optim.Optimizer or makes one from parameters, not {type(optimizer).__name__}"
    )


def _sgd(rate: float) -> MakeOptimizer:
    return lambda parameters: SGD(parameters, lr=rate)


def _train(patient: Patient, given: Treatment, make: MakeOptimizer, steps: int) -> float:
    model, loss_fn = copy_model(given.model, "trial"), usable_loss(patient.loss_fn)
    if not model.training:
        model.train()
    optimizer = make([one for one in model.parameters() if one.requires_grad])

    def loss() -> Tensor:
        return loss_of(loss_fn, call_model(model, copy_input(patient.x)), copy_input(patient.y))

    seed_all()
    for _ in range(steps):
        optimizer.zero_grad()
        (loss() * given.loss_scale).backward()  # type: ignore[no-untyped-call]
        gradients = [one.grad for one in model.parameters() if one.grad is not None]
        for gradient in gradients:
            gradient.div_(given.loss_scale)
        if given.clip is not None:
            clip_grad_norm_(model.parameters(), given.clip)
        optimizer.step()
    last = float(loss().detach())
    return last if math.isfinite(last) else math.inf
