"""Blocks of equal width in a model: what a skip can go around, and what can be left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from gradscope.at_rest.remedies.registry import Patient, Shapes
from gradscope.probe.layers import find_layers


@dataclass(frozen=True)
class Group:
    """Neighbours in a Sequential: a layer, or a module that holds layers, and what follows it up to the next.

    Attributes:
        container: Qualified name of the Sequential.
        children: Names of the neighbours within it.
        equal: Whether what comes out has the shape of what goes in.
    """

    container: str
    children: tuple[str, ...]
    equal: bool


def groups(patient: Patient) -> list[Group]:
    """Find the groups of all chains in a model, in order; the head, after which no layer comes, is none."""
    shapes = patient.shapes()
    model = patient.original
    layered = {name for layer in find_layers(model) for name in _above(layer.name)}
    found: list[Group] = []
    for name, module in model.named_modules():
        if type(module).forward is nn.Sequential.forward and not _is_block(name, module, layered):
            found.extend(_of_chain(name, module, layered, shapes))
    hidden = {name for spec in patient.before.hidden for name in _above(spec.layer)}
    return [one for one in found if _full(one.container, one.children[0]) in hidden]


def _above(name: str) -> Iterator[str]:
    """Yield a qualified name and those of the modules it is in."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        yield ".".join(parts[:count])


def _is_block(name: str, module: nn.Module, layered: set[str]) -> bool:
    """A Sequential with a single layer inside another module is a block, not a chain."""
    return bool(name) and sum(_full(name, child) in layered for child, _ in module.named_children()) < 2


def _of_chain(name: str, chain: nn.Module, layered: set[str], shapes: Mapping[str, Shapes]) -> Iterator[Group]:
    names: list[str] = []
    for child, module in chain.named_children():
        full = _full(name, child)
        if full in layered:
            if names:
                yield _group(name, names, shapes)
            # A chain within the chain has groups of its own.
            inner = type(module).forward is nn.Sequential.forward and not _is_block(full, module, layered)
            names = [] if inner else [child]
        elif names:
            names.append(child)
    if names:
        yield _group(name, names, shapes)


def _group(container: str, names: list[str], shapes: Mapping[str, Shapes]) -> Group:
    first, last = (shapes.get(_full(container, name)) for name in (names[0], names[-1]))
    equal = first is not None and last is not None and first.input == last.output != ()
    return Group(container, tuple(names), equal)


def _full(container: str, child: str) -> str:
    return f"{container}.{child}" if container else child
