"""From the graph of parts to a chain with skips: what is in series, what goes around what, what cannot be resolved."""

from __future__ import annotations

from dataclasses import dataclass

from gradscope.at_rest.readings.graph import ROOT, Graph
from gradscope.at_rest.readings.parts import LayerCall, Part, Scale, Sum, Unknown


@dataclass(frozen=True)
class Fork:
    """Two paths from one place that are added again.

    Attributes:
        branch: The path with more layers.
        shortcut: The other; empty for the identity.
        scale: Factor on the branch.
    """

    branch: tuple[Item, ...]
    shortcut: tuple[Item, ...]
    scale: float


@dataclass(frozen=True)
class Opaque:
    """A part of the network that theory cannot follow.

    Attributes:
        why: The reason.
        layers: Places of the layer calls in it.
    """

    why: str
    layers: tuple[int, ...]


Item = Part | Fork | Opaque


CROSSING = "paths cross: what is added is neither a skip nor a branch of its own"


class _CrossingError(Exception):
    """Paths that are neither in series nor parallel."""


def find_chain(graph: Graph, end: int) -> tuple[tuple[Item, ...], int]:
    """Return what lies in series between the source and a place, first things first, and the place of the source.

    The source is the last place before which there is no layer.
    """
    items, start = _walk(graph, end, None)
    return items, start


def without_end(items: tuple[Item, ...]) -> tuple[Item, ...]:
    """Drop what follows the last layer from the first thing on that is not known: no gradient of a layer needs it."""
    last = max((place for place, item in enumerate(items) if layers_in((item,))), default=-1)
    unknown = [place for place, item in enumerate(items) if place > last and isinstance(item, Unknown | Opaque)]
    return items[: unknown[0]] if unknown else items


def layers_in(items: tuple[Item, ...]) -> tuple[int, ...]:
    """Return the places of the layer calls of a chain, those on both sides of its forks included.

    >>> layers_in((LayerCall(0), Fork((LayerCall(1),), (), 1.0)))
    (0, 1)
    """
    found: list[int] = []
    for item in items:
        if isinstance(item, LayerCall):
            found.append(item.place)
        elif isinstance(item, Fork):
            found += [*layers_in(item.branch), *layers_in(item.shortcut)]
        elif isinstance(item, Opaque):
            found += item.layers
    return tuple(found)


def _walk(graph: Graph, end: int, stop: int | None) -> tuple[tuple[Item, ...], int]:
    items: list[Item] = []
    at = end
    while at != stop:
        if stop is None and graph.before[at]:
            break
        if stop is not None and at < stop:
            raise _CrossingError
        node = graph.nodes[at]
        if len(node.parents) == 1:
            items.append(node.part)
            at = node.parents[0]
            continue
        items.append(_fork(graph, at))
        at = graph.idom[at]
    return tuple(reversed(items)), at


def _fork(graph: Graph, at: int) -> Item:
    node, stop = graph.nodes[at], graph.idom[at]
    inside = _layers_between(graph, at, stop)
    if not isinstance(node.part, Sum):
        return Opaque(node.part.why if isinstance(node.part, Unknown) else "paths meet", inside)
    if stop == ROOT:
        return Opaque("two inputs are added", inside)
    try:
        paths = [_walk(graph, parent, stop)[0] for parent in node.parents]
    except _CrossingError:
        return Opaque(CROSSING, inside)
    if set(layers_in(paths[0])) & set(layers_in(paths[1])):
        return Opaque(CROSSING, inside)
    return _joined(paths, node.part.factors, inside)


def _joined(paths: list[tuple[Item, ...]], factors: tuple[float, ...], inside: tuple[int, ...]) -> Item:
    scaled = [_peel(path, factor) for path, factor in zip(paths, factors, strict=True)]
    scaled.sort(key=lambda one: len(layers_in(one[0])))
    (shortcut, over), (branch, own) = scaled
    if not layers_in(branch):
        why = next((item.why for path in paths for item in path if isinstance(item, Unknown | Opaque)), "")
        return Opaque(why or "what is added is not independent: no weights lie between", inside)
    if abs(over) != 1.0:
        shortcut = (*shortcut, Scale(over))
    return Fork(branch, shortcut, own)


def _peel(path: tuple[Item, ...], factor: float) -> tuple[tuple[Item, ...], float]:
    """Take factors off the end of a path."""
    while path and isinstance(path[-1], Scale):
        factor *= path[-1].factor
        path = path[:-1]
    return path, factor


def _layers_between(graph: Graph, end: int, stop: int) -> tuple[int, ...]:
    stack, seen, found = [end], {stop}, []
    while stack:
        at = stack.pop()
        if at in seen:
            continue
        seen.add(at)
        part = graph.nodes[at].part
        if isinstance(part, LayerCall):
            found.append(part.place)
        stack.extend(graph.nodes[at].parents)
    return tuple(sorted(found))
