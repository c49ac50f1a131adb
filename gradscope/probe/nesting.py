"""Optimizers whose step calls the step of their parent class: torch calls the hooks of both, and it is one step."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from torch.optim import Optimizer

_STEP = Optimizer.profile_hook_step(lambda self: None).__code__


def may_nest(optimizers: Iterable[Optimizer]) -> frozenset[int]:
    """Return the ids of optimizers that are not torch's own: the step of these may call another."""
    return frozenset(id(one) for one in optimizers if not type(one).__module__.startswith("torch.optim"))


def is_inner_step(optimizer: Optimizer) -> bool:
    """Tell, from within a hook of an optimizer, whether its step was called by another step of the same optimizer."""
    frame, steps = sys._getframe(1), 0
    while frame is not None:
        if frame.f_code is _STEP and frame.f_locals.get("self") is optimizer:
            steps += 1
            if steps > 1:
                return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
