"""torch.compile: what is compiled, and how a recorded step runs eagerly so that hooks see the true graph.

Hooks inside compiled code are either traced into it, with a graph break each and numbers of a rewritten graph, or
never called (pytorch#117758). Therefore a recorded step runs what is compiled eagerly, and an unrecorded one has no
hooks at all: no graph break, no recompilation.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import nn
from torch.compiler import is_compiling

from gradscope.probe import distributed
from gradscope.probe.hooks import Hook

COMPILED_TEXT = (
    "compiled before it was watched: hooks never fire in compiled code; "
    "watch first and compile afterwards to record its activations and error signals"
)
COMPILED_WARNING = (
    "this model was compiled before it was watched: hooks never fire in compiled code, so that only its parameters "
    "are recorded (weights, their gradients and updates), no activations and no error signals; "
    "watch first and compile afterwards to record everything"
)
_WRAPPER = ("compile_wrapper", "eval_frame.py")


def unwrap(model: Any) -> Any:
    """Return the module inside the wrappers of torch.compile and DistributedDataParallel, in any order."""
    while (inner := distributed.unwrap(_original(model) or model)) is not model:
        model = inner
    return model


def is_compiled(model: Any) -> bool:
    """Tell whether a model is compiled as a whole: a call of it runs compiled code, in which no hook fires."""
    inner = distributed.unwrap(model)
    return any(isinstance(one, nn.Module) and _is_compiled(one) for one in (model, inner))


def holds_compiled(model: nn.Module) -> bool:
    """Tell whether a model, or a module in it, is compiled."""
    return any(_is_compiled(module) for module in model.modules())


def called_from_compiled() -> bool:
    """Tell whether the call that is being made came through something compiled, run eagerly."""
    name, file = _WRAPPER
    frame = sys._getframe(1) if _dynamo() is not None else None
    while frame is not None:
        if frame.f_code.co_name == name and frame.f_code.co_filename.endswith(file):
            return True
        frame = frame.f_back
    return False


def outside_compiled(call: Callable[..., Any]) -> Callable[..., Any]:
    """Make a hook that an optimizer carries for the whole training, with the compiler kept out of it.

    Without optimizer and compiler there is nothing to keep out: torch loads its compiler with the first optimizer.
    """
    if _dynamo() is None:
        return Hook(call)
    disabled: Callable[..., Any] = torch.compiler.disable(call)  # type: ignore[no-untyped-call]
    active = getattr(sys.modules.get("torch._C._dynamo.eval_frame"), "get_eval_frame_callback", None)
    if active is None:
        return Hook(disabled)

    def outside(*args: Any, **kwargs: Any) -> Any:
        # Entering a disabled function takes microseconds at every step: only where the compiler watches it has to.
        return disabled(*args, **kwargs) if is_compiling() or active() is not None else call(*args, **kwargs)

    return Hook(outside)


def _is_compiled(module: nn.Module) -> bool:
    return _original(module) is not None or module.__dict__.get("_compiled_call_impl") is not None


def _original(module: Any) -> nn.Module | None:
    """The module that an OptimizedModule was made of; its class is looked at by name, since importing it is slow."""
    return module._modules.get("_orig_mod") if type(module).__name__ == "OptimizedModule" else None


def _dynamo() -> Any:
    """The compiler where something has loaded it (about a second); an ordinary user never pays for it here."""
    return sys.modules.get("torch._dynamo")


class EagerSteps:
    """Runs compiled code eagerly while at least one probe records a step; the stance of the compiler is one a process.

    A stance that the user sets meanwhile is left alone.
    """

    def __init__(self) -> None:
        self._holders: set[int] = set()
        self._stance: Any = None

    def hold(self, holder: int) -> None:
        """Ask for eager steps; asking twice is harmless. Without a compiler loaded there is nothing to ask."""
        if _dynamo() is None:
            return
        self._holders.add(holder)
        if self._stance is None:
            with suppress(RuntimeError):  # torch refuses it inside compiled code: this step is lost, and told so
                self._stance = torch.compiler.set_stance("force_eager")

    def release(self, holder: int) -> None:
        """Ask no longer for eager steps."""
        self._holders.discard(holder)
        if self._holders or self._stance is None:
            return
        with suppress(RuntimeError):
            if sys.modules["torch._dynamo.eval_frame"]._stance is self._stance.stance:
                self._stance.__exit__(None, None, None)
            self._stance = None


eager_steps = EagerSteps()
