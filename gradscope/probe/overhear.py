"""Be told of the calls of a GradScaler's methods, and leave no trace on it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Protocol

from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

METHODS = ("unscale_", "step", "update")


class Listener(Protocol):
    """Who is told of the calls of a scaler's methods."""

    def before(self, method: str, optimizer: Optimizer | None) -> None:
        """Learn that a method is about to run."""

    def after(self, method: str, optimizer: Optimizer | None) -> None:
        """Learn that it has returned."""


class Overheard:
    """A method of one GradScaler that tells listeners of its calls; copies and pickles get the plain method."""

    def __init__(self, scaler: GradScaler, name: str) -> None:
        self._scaler = scaler
        self._name = name
        self._found = vars(scaler).get(name)
        self._call = getattr(scaler, name)
        self._listeners: list[weakref.ref[Listener]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method."""
        optimizer = args[0] if args else kwargs.get("optimizer")
        listeners = [one for one in (found() for found in self._listeners) if one is not None]
        for one in listeners:
            one.before(self._name, optimizer)
        result = self._call(*args, **kwargs)
        for one in listeners:
            one.after(self._name, optimizer)
        return result

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[GradScaler, str]]:
        return getattr, (self._scaler, self._name)

    def add(self, listener: Listener) -> None:
        """Tell somebody of calls from now on, as long as somebody else keeps it alive."""
        self._listeners.append(weakref.ref(listener))

    def remove(self, listener: Listener) -> None:
        """Tell it no more; when nobody is left, the scaler is as it was."""
        self._listeners = [found for found in self._listeners if found() not in (None, listener)]
        if self._listeners or vars(self._scaler).get(self._name) is not self:
            return
        if self._found is None:
            del vars(self._scaler)[self._name]
        else:
            setattr(self._scaler, self._name, self._found)


def overhear(scaler: GradScaler, listener: Listener) -> None:
    """Tell a listener of the calls of ``unscale_``, ``step`` and ``update``."""
    for name in METHODS:
        if not isinstance(vars(scaler).get(name), Overheard):
            setattr(scaler, name, Overheard(scaler, name))
        vars(scaler)[name].add(listener)


def stop_overhearing(scaler: GradScaler, listener: Listener) -> None:
    """Undo ``overhear``; doing it twice is harmless."""
    for name in METHODS:
        found = vars(scaler).get(name)
        if isinstance(found, Overheard):
            found.remove(listener)
