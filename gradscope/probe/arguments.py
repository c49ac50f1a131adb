"""What ``watch`` may be given: each function returns the argument as it is used, or raises one clear error."""

from __future__ import annotations

import operator

from torch.amp.grad_scaler import GradScaler

from gradscope.errors import InvalidTypeError, InvalidValueError, RunFormatError
from gradscope.runs import Run, load


def whole_steps(name: str, value: object) -> int:
    """Return a number of steps, at least 1."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise InvalidTypeError(f"{name} is a whole number of steps, not {value!r}") from None
    if number < 1:
        raise InvalidValueError(f"{name} is at least 1, not {number}")
    return number


def given_pace(every: object) -> int | None:
    """Return every how many steps to record; None for ``"auto"``."""
    if isinstance(every, str) and every != "auto":
        raise InvalidTypeError(f"every is a whole number of steps or 'auto', not {every!r}")
    return None if every == "auto" else whole_steps("every", every)


def scaler_or_none(scaler: object) -> GradScaler | None:
    """Return a GradScaler, of any device, enabled or not."""
    if scaler is None or isinstance(scaler, GradScaler):
        return scaler
    raise InvalidTypeError(f"scaler is a torch.amp.GradScaler, not {type(scaler).__name__}")


def share_of_time(budget: object) -> float:
    """Return a budget, above 0 and below 1."""
    if isinstance(budget, bool) or not isinstance(budget, int | float):
        raise InvalidTypeError(f"budget is a share of the time, such as 0.02, not {budget!r}")
    if not 0.0 < budget < 1.0:
        raise InvalidValueError(f"budget is a share of the time above 0 and below 1, such as 0.02, not {budget}")
    return float(budget)


def first_pace(folder: str, resume: bool) -> int:
    """Return every how many steps ``every="auto"`` begins to record: where the run stopped, if it is resumed."""
    try:
        stored = load(folder) if resume else None
    except RunFormatError:
        return 1  # nothing to resume yet, or the writer names what is wrong with it
    return stored.every if isinstance(stored, Run) else 1
