"""What every training of a process shares: random states, settings, hooks on all modules and all optimizers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.modules.module as modules
import torch.optim.optimizer as optimizers
from torch import Tensor

Observation = tuple[str, str, object]


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _set_deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _cudnn(name: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    return lambda: getattr(torch.backends.cudnn, name), lambda value: setattr(torch.backends.cudnn, name, value)


SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "deterministic algorithms": (_deterministic, _set_deterministic),
    "threads": (torch.get_num_threads, torch.set_num_threads),
    "anomaly detection": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "float32 matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "cudnn.deterministic": _cudnn("deterministic"),
    "cudnn.benchmark": _cudnn("benchmark"),
}


def _global_hooks() -> dict[str, dict[Any, Any]]:
    """The dictionaries torch keeps for all modules and all optimizers, by name."""
    found = {}
    for home in (modules, optimizers):
        for name, value in vars(home).items():
            if name.startswith("_global_") and isinstance(value, dict):
                found[name.removeprefix("_global_")] = value
    return found


@dataclass(frozen=True)
class World:
    """A moment of what a process shares, to come back to.

    Attributes:
        torch: Random states of torch: the CPU, then every CUDA device, where CUDA is in use.
        numpy: State of numpy's global generator.
        python: State of Python's global generator.
        settings: Settings of torch, by name.
        hooks: What the dictionaries of global hooks hold, by name.
    """

    torch: tuple[Tensor, ...]
    numpy: tuple[Any, ...]
    python: tuple[Any, ...]
    settings: dict[str, Any]
    hooks: dict[str, dict[Any, Any]]

    @classmethod
    def now(cls) -> World:
        """Capture the present."""
        # A CUDA context that does not exist yet is not created.
        live = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        devices = torch.cuda.get_rng_state_all() if live else []
        return cls(
            (torch.get_rng_state(), *devices),
            np.random.get_state(),  # type: ignore[arg-type]  # noqa: NPY002 - the global generator is what is compared
            random.getstate(),
            {name: read() for name, (read, _) in SETTINGS.items()},
            {name: dict(value) for name, value in _global_hooks().items()},
        )

    def restore(self) -> None:
        """Put everything back."""
        torch.set_rng_state(self.torch[0])
        if len(self.torch) > 1:
            torch.cuda.set_rng_state_all(list(self.torch[1:]))
        np.random.set_state(self.numpy)  # noqa: NPY002 - as above
        random.setstate(self.python)
        for name, (read, write) in SETTINGS.items():
            if read() != self.settings[name]:
                write(self.settings[name])
        for name, value in _global_hooks().items():
            if value != self.hooks[name]:
                value.clear()
                value.update(self.hooks[name])

    def observe(self) -> Iterator[Observation]:
        """Everything to compare: what, where, value."""
        devices = ["cpu", *(f"cuda:{place}" for place in range(len(self.torch) - 1))]
        for device, state in zip(devices, self.torch, strict=True):
            yield "random states", f"torch ({device})", state.numpy().tobytes()
        yield "random states", "numpy", self.numpy
        yield "random states", "python", self.python
        for name, setting in self.settings.items():
            yield "settings", name, str(setting)
        for name, hooks in self.hooks.items():
            yield "hooks", f"{name} of all", names_of(hooks)


def names_of(hooks: object) -> tuple[str, ...]:
    """Names of the functions in a dictionary of hooks, in order; none for no dictionary.

    >>> names_of({7: print})
    ('print',)
    """
    values = hooks.values() if isinstance(hooks, dict) else ()
    return tuple(getattr(one, "__qualname__", type(one).__name__) for one in values)
