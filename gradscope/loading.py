"""Loading what is first used in the middle of somebody's training: some libraries draw random numbers on import."""

from __future__ import annotations

import importlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def undrawn() -> Iterator[None]:
    """Leave the state of Python's generator as it was: rich and joblib (of scikit-learn) draw from it on import."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


def load(name: str) -> ModuleType:
    """Import a module and leave the state of Python's generator as it was."""
    with undrawn():
        return importlib.import_module(name)
