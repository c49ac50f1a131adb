"""Optimizers that evaluate the loss themselves: of several evaluations in a step, the last one counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch.optim import Optimizer


def has_closure(args: Iterable[Any], kwargs: Mapping[str, Any]) -> bool:
    """Tell whether an optimizer step was given a closure."""
    return any(_is_closure(one) for one in [*args, *kwargs.values()])


def restarting(restart: Callable[[], None], args: Iterable[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the arguments of an optimizer step with closures that call ``restart`` first."""

    def wrap(value: Any) -> Any:
        if not _is_closure(value):
            return value

        def evaluate(*given: Any, **named: Any) -> Any:
            restart()
            return value(*given, **named)

        return evaluate

    return tuple(wrap(one) for one in args), {name: wrap(one) for name, one in kwargs.items()}


def _is_closure(value: object) -> bool:
    return callable(value) and not isinstance(value, Optimizer)
