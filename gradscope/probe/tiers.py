"""Tiers of capability: what can be had of a layer, from what is always exact to what takes most.

Parameters are read at the step boundary, whatever ran the model: compiled, captured, sharded or plain. Boundaries
(activations and error signals) take hooks on the call of a layer, units an activation function that is recognised.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from torch import nn

from gradscope.probe.compiled import COMPILED_TEXT
from gradscope.probe.distributed import world_size
from gradscope.probe.layers import Layer, named_layers, scripted_layers
from gradscope.probe.not_layers import not_layers
from gradscope.probe.plan import Plan
from gradscope.probe.recorder import Recorder
from gradscope.probe.records import CallRecord
from gradscope.signals import SIGNALS

YES, PART, NO = "yes", "part", "no"
NOT_CHOSEN = "-"
"""Of a tier that no chosen metric asks for."""
TIERS = ("parameters", "boundaries", "units")

ADDED = ("added", "came to the model after it was watched, and is not recorded; watch the model again")
REPLACED = ("added", "another module has its place since the model was watched: not recorded; watch the model again")
GONE = ("gone", "has left the model since it was watched")


@dataclass(frozen=True)
class Scope:
    """What a probe can see of its model, before the first step.

    Attributes:
        tiers: Tiers that the chosen metrics ask for.
        limits: Code and text of layers of which only parameters can be had, by name.
        left_out: Code and text of layers that are not watched, by name.
        others: Code and text of modules with parameters of their own that are no layers, by name.
    """

    tiers: frozenset[str] = frozenset(TIERS)
    limits: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    left_out: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    others: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def scope_of(model: nn.Module, layers: Iterable[Layer], plan: Plan, compiled: bool) -> Scope:
    """Say what a probe can see of a model.

    Args:
        model: The model, without the wrappers of torch.compile and DistributedDataParallel.
        layers: The layers chosen.
        plan: The metrics chosen.
        compiled: Whether the whole model was compiled before it was watched.
    """
    names = {layer.name for layer in layers}
    limits = dict.fromkeys(names, ("compiled", COMPILED_TEXT)) if compiled else {}
    left_out = {name: ("filtered", "left out by layers=") for name in named_layers(model) if name not in names}
    scripted = dict.fromkeys(scripted_layers(model), ("scripted", "inside TorchScript (torch.jit): no hook fires"))
    return Scope(asked_tiers(plan), limits, left_out | scripted, not_layers(model))


def moved_since(model: nn.Module, layers: Iterable[Layer], scope: Scope) -> dict[str, tuple[str, str]]:
    """Say which layers came to the model or left it since it was watched: code and text by name.

    Args:
        model: The model as it is now.
        layers: The layers that are watched.
        scope: What was said of it then.
    """
    now, watched = named_layers(model), {layer.module: layer.name for layer in layers}
    there = set(now.values())
    gone = {name: GONE for module, name in watched.items() if module not in there}
    strangers = {name for name, module in now.items() if module not in watched and name not in scope.left_out}
    return gone | {name: REPLACED if name in gone else ADDED for name in sorted(strangers)}


def asked_tiers(plan: Plan) -> frozenset[str]:
    """Return the tiers that the chosen metrics ask for."""
    of_parameters = [name for name, signal in SIGNALS.items() if signal.phase == "step"]
    at_boundaries = [name for name, signal in SIGNALS.items() if signal.phase not in ("step", "window")]
    asked = {"parameters": plan.needs(*of_parameters), "boundaries": plan.needs(*at_boundaries)}
    return frozenset(name for name, is_asked in (asked | {"units": plan.needs("dead_units")}).items() if is_asked)


def add_uncalled(recorder: Recorder, layers: Iterable[Layer], limits: Collection[str]) -> None:
    """Give layers whose calls cannot be seen a row for their parameters.

    These are the layers of which only parameters can be had, and all of them where no call of any was seen although
    gradients have arrived: the replay of a CUDA graph calls no hook, a training in evaluation mode does not count.
    Where several ranks train, the gradient of a layer that this one did not call comes from another.
    """
    missing = [
        layer for layer in layers if layer.name in recorder.parameters and (layer.name, 1) not in recorder.records
    ]
    if not missing:
        return
    unseen = world_size() > 1 or not any(record.batches for record in recorder.records.values())
    for layer in missing:
        if layer.name in limits or (unseen and has_gradient(layer.module)):
            made_up = CallRecord(layer, 1, resolved=False)
            recorder.records.setdefault(made_up.key, made_up)


def has_gradient(module: nn.Module) -> bool:
    """Tell whether a parameter of a layer has a gradient."""
    return any(parameter.grad is not None for parameter in module.parameters())
