"""Hooks that leave no trace: a copy or a pickle of the model carries inert ones, and detaching removes all."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.compiler import is_compiling

CHANNEL_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LocalResponseNorm)
NORM_MODULES = (*CHANNEL_NORMS, nn.LayerNorm, nn.RMSNorm)
_HANDED_IN = "RegisterPostBackwardFunctionBackward"


# What a hook becomes in a copy or a pickle of the model: a callable of the standard library that takes anything and
# returns None, so that the copy does not record and a pickle opens where gradscope is not installed.
_NOTHING = nullcontext()
_is_tracing = torch._C._is_tracing


class Hook:
    """A callable for torch's hook dictionaries that neither copies nor pickles what it is bound to."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call what the hook is bound to."""
        return self._call(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return _NOTHING.__exit__

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, str]]:
        return getattr, (_NOTHING, "__exit__")


class StepHook(Hook):
    """A hook that exists only while a step is recorded; traced into compiled code it does nothing, and breaks no graph.

    That happens where the compiler was loaded after the step began, or where the user's stance replaced ours.
    """

    __slots__ = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call what the hook is bound to, unless a compiler is tracing."""
        if is_compiling() or _is_tracing():
            return None
        return self._call(*args, **kwargs)


class AccumulationHook(Hook):
    """The same of a parameter, bound weakly: the collector cannot see through a parameter's hooks."""

    __slots__ = ()

    def __call__(self, owner: Any) -> None:
        """Call what the hook is bound to, unless that is gone, a compiler is tracing or a CUDA graph captured."""
        if is_compiling() or _is_tracing():
            return
        found = self._call()
        if found is not None and not is_capturing():
            found(owner)


def on_gradient(tensor: Any, hook: Callable[[Any], None]) -> None:
    """Call a hook with the gradient of a tensor, all its uses added up.

    On the node that made the tensor rather than on the tensor: at a third of the cost, and it survives a change in
    place. What ``fully_shard`` hands into a module is a tensor of its own: the gradient is then that of the tensor it
    was given, of which other parts of the model (a skip) may make use as well.
    """
    node, place = tensor.grad_fn, tensor.output_nr
    if node is None:
        tensor.register_hook(hook)
        return
    if node.name() == _HANDED_IN:
        # A policy of mixed precision casts before; modules lie in one another.
        while node is not None and node.name() in (_HANDED_IN, "ToCopyBackward0"):
            node, place = node.next_functions[place]
        if node is None or hasattr(node, "variable"):  # a leaf would keep the hook beyond this step
            return

    def read(grads: Any) -> None:
        if grads[place] is not None:
            hook(grads[place])

    node.register_prehook(read)


def on_accumulation(parameter: Any, call: Callable[..., None]) -> Any:
    """Call something when a gradient has been added to ``parameter.grad``, as long as somebody else keeps it alive.

    The collector cannot see through a parameter's hooks: a strong reference would keep the model for ever.
    While a CUDA graph is being captured there is no gradient yet, only memory that replays will fill.
    """
    alive = weakref.WeakMethod(call) if isinstance(call, MethodType) else weakref.ref(call)
    return parameter.register_post_accumulate_grad_hook(AccumulationHook(alive))


def is_capturing() -> bool:
    """Tell whether a CUDA graph is being captured: nothing runs then, and nothing may be read."""
    # Without the test for a forked process that is_initialized makes: four calls a layer.
    return torch.cuda._initialized and torch.cuda.is_current_stream_capturing()


class HookSet:
    """Handles of attached hooks, removed together."""

    def __init__(self) -> None:
        self._handles: list[Any] = []

    def __bool__(self) -> bool:
        return bool(self._handles)

    def add(self, handle: Any) -> None:
        """Keep the handle of a hook."""
        self._handles.append(handle)

    def remove(self) -> None:
        """Remove every hook; calling twice is harmless."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def norm_unit_dim(module: nn.Module, output: Any) -> int:
    """Dimension of a normalization's output that counts units, from the end."""
    return 1 - int(output.dim()) if isinstance(module, CHANNEL_NORMS) else -1


def norm_modules(model: nn.Module) -> list[nn.Module]:
    """Return the normalization modules of a model."""
    return [module for module in model.modules() if isinstance(module, NORM_MODULES)]
