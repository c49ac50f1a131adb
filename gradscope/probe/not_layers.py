"""Modules that train parameters of their own and are no layers: what the probe does not see of a model, by name."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import nn

from gradscope.probe.distributed import wrapper_parts
from gradscope.probe.hooks import NORM_MODULES
from gradscope.probe.layers import KINDS, clean, named_layers, plain

UNWATCHED = "unwatched"
MOST_NAMES = 3
# What they do to a signal is part of the layer that they follow.
_PARTS_OF_LAYERS = (*NORM_MODULES, nn.PReLU)
_SCRIPTED = set(KINDS.split(", ")).union(
    [one.__name__ for one in _PARTS_OF_LAYERS],
    [f"{kind}{dims}d" for kind in ("BatchNorm", "InstanceNorm") for dims in (1, 2, 3)],
)


def not_layers(model: nn.Module) -> dict[str, tuple[str, str]]:
    """Name the modules with trainable parameters of their own that are no layers: code and text by qualified name.

    Normalizations and PReLU are left out, for they belong to a layer, and so is a parameter that a layer shares: an
    embedding whose weight is that of the head is read there. What is frozen now is not named.
    """
    layers = list(named_layers(model).values())
    shared = {id(one) for layer in layers for one in layer.parameters()}
    modules, wrappers = dict(model.named_modules()), wrapper_parts(model)
    found: dict[str, list[tuple[str, nn.Parameter]]] = {}
    for name, module in modules.items():
        for own, parameter in module.named_parameters(recurse=False):
            owner, kept = _owner(name, own)
            if parameter.requires_grad and id(parameter) not in shared and not _belongs_to_a_layer(modules[owner]):
                found.setdefault(owner, []).append((kept, parameter))
    texts = {}
    for name, parameters in found.items():
        kind = _kind(modules[name])
        texts[clean(name, wrappers) or kind] = UNWATCHED, _text(kind, parameters)
    return texts


def _owner(module: str, parameter: str) -> tuple[str, str]:
    """Name the module that a parameter is of, and what it is called there: a parametrization keeps its own.

    >>> _owner("cell.parametrizations.weight_hh", "original")
    ('cell', 'weight_hh')
    """
    parts = module.split(".")
    if "parametrizations" not in parts:
        return module, parameter
    place = parts.index("parametrizations")
    return ".".join(parts[:place]), parts[place + 1]


def _belongs_to_a_layer(module: nn.Module) -> bool:
    """Tell whether this is part of a layer; inside TorchScript, where there are no classes, by name."""
    return isinstance(module, _PARTS_OF_LAYERS) or (
        isinstance(module, torch.jit.ScriptModule) and module.original_name in _SCRIPTED
    )


def _kind(module: nn.Module) -> str:
    if isinstance(module, torch.jit.ScriptModule):
        return str(module.original_name)
    return type(module).__name__.removeprefix("FSDP").removeprefix("Parametrized")


def _text(kind: str, parameters: Collection[tuple[str, nn.Parameter]]) -> str:
    """Say it in words.

    >>> _text("GRU", [("a", nn.Parameter(torch.ones(1000))), ("b", nn.Parameter(torch.ones(3)))])
    'GRU is no linear or convolution layer: its own 1,003 parameters (a, b) are not recorded'
    """
    count = sum(one.numel() for _, one in parameters if plain(one) is not None)
    many = f"{count:,} parameters" if count > 1 else "parameter"
    told = f"its own {many} ({', '.join(_named(parameters))}) {'are' if count > 1 else 'is'} not recorded"
    return f"{kind} is no linear or convolution layer: {told}"


def _named(parameters: Collection[tuple[str, nn.Parameter]]) -> Iterator[str]:
    names = list(dict.fromkeys(name for name, _ in parameters))
    yield from names[:MOST_NAMES]
    if len(names) > MOST_NAMES:
        yield f"{len(names) - MOST_NAMES} more"
