"""Read a live model as theory sees it: one forward pass of a copy, and what its autograd graph tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.at_rest.copies import call_model
from gradscope.at_rest.reading_copy import copy_input, copy_model
from gradscope.at_rest.readings.chain import find_chain, without_end
from gradscope.at_rest.readings.graph import Builder
from gradscope.at_rest.readings.layers import LayerRead, read_layer, with_reuse
from gradscope.at_rest.readings.stages import Assembler, Element
from gradscope.probe.layers import Layer, find_layers
from gradscope.theory.stages import Pool, Stage


@dataclass(frozen=True, eq=False)
class Reading:
    """A model as theory sees it.

    Attributes:
        layers: The layer calls in order of execution.
        network: Stages and skips on the way from input to output; a stage is named by the place of its layer call.
        lost: Places of layer calls that theory cannot follow, and why.
        notes: Places of layer calls of which something is assumed, and what.
        factors: Factors behind activation functions, which the slopes of these do not contain.
        pools: Poolings with the places of the layer calls whose outputs are pooled.
        start: What enters the first skip, where one comes before all layers; None where a layer is first, or where
            the tensor is not at hand.
        output: What the model returned.
    """

    layers: tuple[LayerRead, ...]
    network: tuple[Element, ...]
    lost: Mapping[int, str]
    notes: Mapping[int, str]
    factors: Mapping[int, float]
    pools: tuple[tuple[Pool, int], ...]
    start: Tensor | None
    output: Any


@dataclass
class _Seen:
    """What hooks saw of a forward pass."""

    layers: list[LayerRead] = field(default_factory=list)
    ends: dict[Any, tuple[int, Any | None]] = field(default_factory=dict)
    entries: dict[nn.Module, Tensor] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)


def read(model: nn.Module, x: Any, train: bool = True) -> Reading:
    """Run a copy of a model forward and read its layers, and what lies between, off the graph.

    To be called in ``undisturbed``; the copy stays alive as long as the reading.

    Args:
        model: The model.
        x: Its input.
        train: The mode; a model that is in it keeps the modes of its modules.

    Raises:
        InvalidTypeError: The model is no module.
        InvalidValueError: It has no layers, or cannot be copied.
    """
    twin = copy_model(model, "theory")
    if twin.training != train:
        twin.train(train)
    found = find_layers(twin)
    for parameter in twin.parameters():
        # Frozen ones too: the graph is to be whole.
        parameter.requires_grad_(parameter.is_floating_point())
    seen = _Seen()
    for layer in found:
        layer.module.register_forward_pre_hook(_before(seen))
        layer.module.register_forward_hook(_after(seen, layer))
    leaves = _leaves(copy_input(x))
    output = call_model(twin, leaves)
    return _assemble(seen, output, leaves)


def _assemble(seen: _Seen, output: Any, x: Any) -> Reading:
    builder = Builder(seen.ends)
    ends = {builder.place(one.grad_fn) for one in tensors(output) if one.grad_fn is not None}
    reaching = [end for end in sorted(ends) if not builder.graph.before[end]]
    assembler = Assembler(seen.layers)
    network: list[Element] = []
    start = None
    if len(reaching) == 1:
        items, source = find_chain(builder.graph, reaching[0])
        entering = _value_at(builder, source, seen, x)
        positions = entering is not None and entering.dim() > 2 and seen.layers[0].stage.convolution is not None
        size = tuple(entering.shape[2:]) if entering is not None and positions else ()
        network = assembler.network(without_end(items), size)
        start = entering if network and not (isinstance(network[0], Stage) and network[0].name) else None
        if start is not None:
            # A stage that stands for the input says how wide that is.
            network = [assembler.input(start, size), *network]
    why = "the model has several outputs" if len(reaching) > 1 else "the way from the input to the output is not known"
    known = set(_names(network))
    lost = {place: why if len(reaching) != 1 else "not on the way to the output" for place in range(len(seen.layers))}
    lost = {place: assembler.lost.get(place, text) for place, text in lost.items() if str(place) not in known}
    notes = {place: with_reuse(one, seen.calls[one.layer.name]) for place, one in enumerate(seen.layers)}
    notes = {place: note or assembler.notes.get(place, "") for place, note in notes.items()}
    return Reading(
        layers=tuple(seen.layers),
        network=tuple(network),
        lost=lost,
        notes={place: note for place, note in notes.items() if note},
        factors=assembler.factors,
        pools=tuple(assembler.pools),
        start=start,
        output=output,
    )


def _value_at(builder: Builder, source: int, seen: _Seen, x: Any) -> Tensor | None:
    """Find the tensor at the place where a chain starts: what enters a layer, or the input itself."""
    for end, (place, entry) in seen.ends.items():
        if entry is not None and end is not None and builder.place(entry) == source:
            return seen.layers[place].entry
    floating = [one for one in tensors(x) if one.is_floating_point()]
    return floating[0] if len(floating) == 1 else None


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in a nest of tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from tensors(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors(one)


def _names(network: list[Element] | tuple[Element, ...]) -> Iterator[str]:
    for one in network:
        if isinstance(one, Stage):
            yield one.name
        else:
            yield from _names(one.branch)
            yield from _names(one.shortcut)


def _leaves(x: Any) -> Any:
    for one in tensors(x):
        one.requires_grad_(one.is_floating_point() or one.is_complex())
    if isinstance(x, Tensor):
        return x.clone()
    return x


def _before(seen: _Seen) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not args or not isinstance(args[0], Tensor):
            return None
        # A node of its own, from which the walk goes on to what the layer was given.
        seen.entries[module] = args[0].clone()
        return (seen.entries[module], *args[1:])

    return hook


def _after(seen: _Seen, layer: Layer) -> Any:
    def hook(module: nn.Module, _args: Any, output: Any) -> Any:
        entry = seen.entries.pop(module, None)
        if entry is None or not isinstance(output, Tensor) or output.grad_fn is None:
            return None
        seen.calls[layer.name] = call = seen.calls.get(layer.name, 0) + 1
        # What follows may change its input in place; the clone is no view, so that the change leaves its node.
        clone = output.clone()
        seen.ends[clone.grad_fn] = (len(seen.layers), entry.grad_fn)
        with torch.no_grad():
            seen.layers.append(read_layer(layer, call, len(seen.layers) + 1, entry.detach(), output))
        return clone

    return hook
