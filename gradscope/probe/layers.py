"""Which modules are layers, what they are called, and how wide they are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.fx import GraphModule
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import UninitializedParameter

from gradscope.errors import InvalidTypeError, InvalidValueError, unknown_name
from gradscope.probe.distributed import flattens, wrapper_parts

LayerFilter = str | Iterable[str] | Callable[[str, nn.Module], bool] | None
KINDS = "Linear, Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d"


@dataclass(frozen=True, eq=False)
class Layer:
    """A watched module.

    Attributes:
        index: Place among the watched modules, in order of registration.
        name: Qualified name.
        module: The module.
        unit_dim: Dimension of its output that counts units, from the end.
    """

    index: int
    name: str
    module: nn.Module
    unit_dim: int

    @property
    def kind(self) -> str:
        """Class name, without the prefixes that parametrization and ``fully_shard`` add."""
        return type(self.module).__name__.removeprefix("FSDP").removeprefix("Parametrized")

    @property
    def weight(self) -> nn.Parameter | None:
        """The weight where it is a plain parameter; None where it is computed (a parametrization)."""
        return plain(self.module._parameters.get("weight"))

    @property
    def bias(self) -> nn.Parameter | None:
        """The bias where there is one."""
        return plain(self.module._parameters.get("bias"))

    @property
    def parameters(self) -> int:
        """Number of parameter entries."""
        return sum(one.numel() for one in self.module.parameters() if plain(one) is not None)

    @property
    def fans(self) -> tuple[int, int]:
        """Inputs one output unit sums over, outputs one input unit reaches."""
        module = self.module
        if isinstance(module, nn.Linear):
            return int(module.in_features), int(module.out_features)
        assert isinstance(module, _ConvNd)
        taps = 1
        for size in module.kernel_size:
            taps *= size
        return module.in_channels // module.groups * taps, module.out_channels // module.groups * taps


def plain(parameter: nn.Parameter | None) -> nn.Parameter | None:
    """None for a parameter that a lazy module has yet to shape."""
    return None if isinstance(parameter, UninitializedParameter) else parameter


def find_layers(model: nn.Module, layers: LayerFilter = None) -> tuple[Layer, ...]:
    """Find the modules to watch.

    Args:
        model: The model.
        layers: fnmatch pattern on qualified names, a list of them, or a callable (name, module) -> bool.

    Raises:
        InvalidTypeError: if the model is no module or the filter none of these.
        InvalidValueError: if the model has no layer.
        UnknownNameError: if a pattern matches none; the message lists the layers.
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"model is a torch.nn.Module, not {type(model).__name__}")
    if isinstance(model, nn.DataParallel):
        raise InvalidTypeError(
            "DataParallel copies the model at every step; use DistributedDataParallel, or watch model.module"
        )
    if any(flattens(module) for module in model.modules()):
        raise InvalidTypeError(
            "FullyShardedDataParallel keeps the weights of many layers in one flat parameter; use fully_shard"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise InvalidTypeError(
            "TorchScript (torch.jit) runs a graph of its own, in which no hook fires; watch the model it was made of"
        )
    found = named_layers(model)
    if not found and isinstance(model, GraphModule):
        raise InvalidValueError(
            f"no layers in {type(model).__name__}: an exported graph holds operations, not modules; "
            "watch the model it was made of"
        )
    if not found:
        raise InvalidValueError(f"no layers in {type(model).__name__}; watched are: {KINDS}")
    chosen = _choose(found, layers)
    return tuple(
        Layer(index, name or type(found[name]).__name__, found[name], _unit_dim(found[name]))
        for index, name in enumerate(chosen)
    )


def named_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Find the modules that can be watched, by qualified name, in order of registration."""
    wrappers = wrapper_parts(model)
    return {
        clean(name, wrappers): module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | _ConvNd)
    }


def scripted_layers(model: nn.Module) -> list[str]:
    """Return the qualified names of layers inside TorchScript, where no hook fires."""
    scripted = ((name, module) for name, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule))
    return [clean(name) for name, module in scripted if module.original_name in KINDS.split(", ")]


def clean(name: str, wrappers: Collection[str] = ()) -> str:
    """Drop what wrappers add to a qualified name.

    Args:
        name: The name.
        wrappers: Names that a wrapper brings about by a part that could as well be the user's, such as ``module``.

    >>> clean("_orig_mod.block.0")
    'block.0'
    >>> clean("head.module.0", {"head.module"})
    'head.0'
    """
    parts = name.split(".")
    kept = [part for place, part in enumerate(parts, start=1) if ".".join(parts[:place]) not in wrappers]
    return ".".join(part for part in kept if part not in ("_orig_mod", "_checkpoint_wrapped_module"))


def _choose(found: dict[str, nn.Module], layers: LayerFilter) -> list[str]:
    if layers is None:
        return list(found)
    if isinstance(layers, str):
        return _match(found, [layers])
    if callable(layers):
        chosen = [name for name, module in found.items() if layers(name, module)]
        if not chosen:
            raise InvalidValueError(f"layers= chose none of: {', '.join(found)}")
        return chosen
    if isinstance(layers, Iterable):
        return _match(found, list(layers))
    raise InvalidTypeError(f"layers is a pattern, a list of patterns or a callable, not {type(layers).__name__}")


def _match(found: dict[str, nn.Module], patterns: list[str]) -> list[str]:
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise InvalidTypeError(f"a layer pattern is a string, not {type(pattern).__name__}")
        if not any(fnmatchcase(name, pattern) for name in found):
            raise unknown_name("layer", pattern, found)
    if not patterns:
        raise InvalidValueError(f"layers= is empty; there are: {', '.join(found)}")
    return [name for name in found if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _unit_dim(module: nn.Module) -> int:
    return -1 - len(module.kernel_size) if isinstance(module, _ConvNd) else -1
