"""The autograd graph between layer calls as a list of parts, each of them after its parents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gradscope.at_rest.readings.nodes import is_constant, read_node
from gradscope.at_rest.readings.parts import LayerCall, Node, Pass, Source, Unknown

ROOT = 0


@dataclass
class Graph:
    """Parts between layers.

    Attributes:
        nodes: Parts, each after its parents; the first is the root of all sources.
        idom: For every part the last one that all ways from the root to it pass through.
        before: Whether a part comes before every layer.
    """

    nodes: list[Node] = field(default_factory=lambda: [Node(Source(), ())])
    idom: list[int] = field(default_factory=lambda: [ROOT])
    before: list[bool] = field(default_factory=lambda: [True])

    def add(self, node: Node) -> int:
        """Add a part whose parents are there already; what only changes shape is its parent."""
        if isinstance(node.part, Pass) and len(node.parents) == 1:
            return node.parents[0]
        parents = node.parents or (ROOT,)
        common = parents[0]
        for one in parents[1:]:
            common = self.meet(common, one)
        self.nodes.append(Node(node.part, parents))
        self.idom.append(common)
        self.before.append(not isinstance(node.part, LayerCall) and all(self.before[one] for one in parents))
        return len(self.nodes) - 1

    def meet(self, one: int, other: int) -> int:
        """Return the last part that all ways to either of two pass through (Cooper, Harvey and Kennedy 2001)."""
        while one != other:
            if one > other:
                one = self.idom[one]
            else:
                other = self.idom[other]
        return one


class Builder:
    """Turns autograd nodes into parts.

    Args:
        layers: Nodes of the outputs of layer calls: the place of each, and the node of what entered it (None where it
            needs no gradient).
    """

    def __init__(self, layers: Mapping[Any, tuple[int, Any | None]]) -> None:
        self.graph = Graph()
        self._layers = layers
        self._places: dict[Any, int] = {}

    def place(self, end: Any | None) -> int:
        """Return the place of the part that a node is, with all it depends on added before it."""
        if end is None:
            return ROOT
        stack = [end]
        while stack:
            node = stack[-1]
            if node in self._places:
                stack.pop()
                continue
            wanted = self._wanted(node)
            missing = [one for one in wanted if one not in self._places]
            if missing:
                stack.extend(missing)
                continue
            self._places[node] = self._add(node)
            stack.pop()
        return self._places[end]

    def _wanted(self, node: Any) -> Iterable[Any]:
        if node in self._layers:
            entry = self._layers[node][1]
            return () if entry is None else (entry,)
        return () if _is_leaf(node) else read_node(node)[-1][1]

    def _add(self, node: Any) -> int:
        if node in self._layers:
            place, entry = self._layers[node]
            return self.graph.add(Node(LayerCall(place), (ROOT if entry is None else self._places[entry],)))
        if _is_leaf(node) or is_constant(node):
            return self.graph.add(Node(Source(), ()))
        steps = read_node(node)
        parents = tuple(self._places[one] for one in steps[-1][1])
        found = self.graph.add(Node(_sourced(steps[-1][0], parents), parents))
        for part, _ in reversed(steps[:-1]):
            found = self.graph.add(Node(part, (found,)))
        return found


def _sourced(part: Any, parents: tuple[int, ...]) -> Any:
    """Something unknown that takes no data, such as the rows of an embedding, is where data comes from."""
    return Source() if isinstance(part, Unknown) and not parents else part


def _is_leaf(node: Any) -> bool:
    return bool(node.name() == "torch::autograd::AccumulateGrad")
