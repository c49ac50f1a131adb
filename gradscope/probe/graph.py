"""Read the autograd graph: who produced an output, whose outputs reach an input, and what lies on the way."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Call = TypeVar("Call", bound=Hashable)

# The node of a layer's own product, and which of its edges leads to the layer's input.
PRODUCTS = {
    "AddmmBackward0": 1,
    "MmBackward0": 0,
    "BmmBackward0": 0,
    "BaddbmmBackward0": 1,
    "ConvolutionBackward0": 0,
    "ConvolutionOverrideableBackward0": 0,
}
_LEAF = "torch::autograd::AccumulateGrad"
RESHAPES = ("View", "UnsafeView", "Squeeze", "Unsqueeze", "Transpose", "Permute", "Reshape", "Alias", "ToCopy")


def edges(node: Any) -> list[Any]:
    """Nodes that a node sends gradients to; parameters and inputs that need none are left out."""
    return [child for child, _ in node.next_functions if child is not None and child.name() != _LEAF]


@dataclass(frozen=True)
class Product:
    """The autograd node of a layer's own product, and its edge towards the layer's input."""

    node: Any
    input_edge: int


def find_product(output: Any) -> Product | None:
    """Find the product behind an output: through reshapes and an added bias, nothing else.

    On a view, a tensor hook is lost when the view is changed in place; the product's node is not.
    """
    node = output.grad_fn
    for _ in range(8):
        if node is None:
            return None
        name = node.name()
        if name in PRODUCTS:
            return Product(node, PRODUCTS[name])
        onward = edges(node)
        if len(onward) != 1 or not (name == "AddBackward0" or name.startswith(RESHAPES)):
            return None
        node = onward[0]
    return None


@dataclass(frozen=True)
class Reached(Generic[Call]):
    """A call whose output reaches a tensor, with the nodes between, nearest to the call first."""

    call: Call
    path: tuple[Any, ...]


def trace(
    start: Any, products: Mapping[Any, Call], visited: set[Any], again: list[Any] | None = None
) -> list[Reached[Call]]:
    """Walk back from a node to the products not reached before; a visited node is not walked twice.

    Args:
        start: ``grad_fn`` of the tensor.
        products: Nodes at which to stop, and whose calls they are.
        visited: Nodes walked already in this forward pass; extended.
        again: Extended by those of them that were met again: what they returned is used more than once.
    """
    if start not in visited and start not in products:
        # The usual case, one function between two layers, at a fifth of the cost.
        onward = start.next_functions
        child = onward[0][0] if len(onward) == 1 else None
        if child in products and child not in visited:
            visited.update((start, child))
            return [Reached(products[child], (start,))]
    found: list[Reached[Call]] = []
    stack: list[tuple[Any, tuple[Any, Any] | None]] = [(start, None)]
    while stack:
        node, trail = stack.pop()
        if node in visited:
            if again is not None:
                again.append(node)
            continue
        visited.add(node)
        if node in products:
            found.append(Reached(products[node], _unroll(trail)))
            continue
        onward = [softsign_input(node)] if softsign_input(node) is not None else edges(node)
        stack.extend((child, (node, trail)) for child in reversed(onward))
    return found


def _unroll(trail: tuple[Any, Any] | None) -> tuple[Any, ...]:
    nodes = []
    while trail is not None:
        nodes.append(trail[0])
        trail = trail[1]
    return tuple(nodes)


def ancestors(start: Any, products: Mapping[Any, Call], memo: dict[Any, frozenset[Call]]) -> frozenset[Call]:
    """Return all calls whose outputs reach a node without passing another product."""
    stack = [start]
    while stack:
        node = stack[-1]
        if node in memo:
            stack.pop()
            continue
        if node in products:
            memo[node] = frozenset({products[node]})
            continue
        onward = edges(node)
        missing = [child for child in onward if child not in memo]
        if missing:
            stack.extend(missing)
            continue
        # Along a chain one set serves all nodes: a deep residual net would fill the memory otherwise.
        below = {id(memo[child]): memo[child] for child in onward}
        memo[node] = next(iter(below.values())) if len(below) == 1 else frozenset().union(*below.values())
    return memo[start]


def softsign_input(node: Any) -> Any | None:
    """Return the node of u where ``node`` is the division of u / (1 + |u|); None for any other node."""
    if node.name() != "DivBackward0" or len(node.next_functions) != 2:
        return None
    top, bottom = (child for child, _ in node.next_functions)
    if top is None or bottom is None or bottom.name() != "AddBackward0":
        return None
    absolute = edges(bottom)
    if len(absolute) != 1 or absolute[0].name() != "AbsBackward0":
        return None
    return top if edges(absolute[0]) == [top] else None
