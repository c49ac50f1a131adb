"""An RMS normalization that is written out, x * rsqrt(mean(x^2)): its nodes, and the two paths back to its input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gradscope.probe.graph import edges


@dataclass(frozen=True)
class Parts:
    """Where the gradient of the input comes from: what the two paths send back adds up to it.

    Attributes:
        edge: Edge of the product towards the input.
        power: Node at which the path through the mean square ends.
        power_edges: Its edges towards the input: two of x * x, one of a power.
    """

    edge: int
    power: Any
    power_edges: tuple[int, ...]


def is_rms(node: Any) -> bool:
    """Tell whether a node is the product of an RMS normalization that is written out."""
    return node.name() == "MulBackward0" and any(child.name() == "RsqrtBackward0" for child in edges(node))


def find_parts(node: Any) -> Parts | None:
    """Find both paths from the product back to the input; None where there is more to it."""
    children = [child for child, _ in node.next_functions]
    names = ["" if child is None else child.name() for child in children]
    if len(children) != 2 or names.count("RsqrtBackward0") != 1:
        return None
    edge = 1 - names.index("RsqrtBackward0")
    below, current = children[edge], children[1 - edge]
    for _ in range(6):
        onward = [child for child, _ in current.next_functions]
        if below is not None and below in onward:
            return Parts(edge, current, tuple(place for place, child in enumerate(onward) if child is below))
        only = edges(current)
        if len(only) != 1:
            return None
        current = only[0]
    return None


def last_place(nodes: tuple[Any, ...], place: int) -> int:
    """Return the place of the last node of a normalization: of its product, or of the one with its weight behind it."""
    if place + 1 == len(nodes) or nodes[place + 1].name() != "MulBackward0":
        return place
    others = [child for child, _ in nodes[place + 1].next_functions if child is not nodes[place]]
    return place + 1 if len(others) == 1 and edges(nodes[place + 1]) == [nodes[place]] else place
