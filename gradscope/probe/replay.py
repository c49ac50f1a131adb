"""Calls that repeat: what the graph around a call was found to be, and the few tests that show it is so again.

Reading a graph takes a hundred calls of Python a layer. A training makes the same graph step after step, so what was
found is kept, and a call whose nodes are of the same types, joined in the same way, is recorded by what is known.
Nothing is taken for granted: a call that differs in anything is read anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from gradscope.probe.following import Way
from gradscope.probe.functions import Phi, from_result, is_packed
from gradscope.probe.graph import Product
from gradscope.probe.records import Key, MicroBatch

# Functions without constants whose value tells their slope: what arrives at the next layer is what autograd saved.
BY_RESULT = {"ReluBackward0": "relu", "TanhBackward0": "tanh", "SigmoidBackward0": "sigmoid"}


@dataclass(frozen=True, eq=False, slots=True)
class Origin:
    """Where the input of a call comes from: one layer, over a chain of nodes.

    Attributes:
        key: The layer call before.
        types: Types of the nodes on the way, from the input back.
        name: The activation function of the layer before.
        norm: Its normalization.
        direct: Whether the activation function receives its output, and nothing is added.
        has_phi: Whether what arrives is the value of that function.
    """

    key: Key
    types: tuple[type, ...]
    name: str
    norm: str
    direct: bool
    has_phi: bool


@dataclass(eq=False, slots=True)
class Memo:
    """What is known of a layer call.

    Attributes:
        node: Type of the node of its product, which is that of its output.
        edge: Edge of the product towards the input.
        entry: Shape of its input.
        output: Shape of its output.
        origin: Where its input comes from; None where it needs no gradient.
    """

    node: type
    edge: int
    entry: torch.Size
    output: torch.Size
    origin: Origin | None

    def finds(self, batch: MicroBatch, entry: Tensor, output: Tensor, products: dict[Any, MicroBatch]) -> Found | None:
        """Test whether a call repeats; return what it was found to be, None where anything differs."""
        node: Any = output.grad_fn
        if type(node) is not self.node or node in products:
            return None
        if output.shape != self.output or entry.shape != self.entry:
            return None
        origin: Origin | None = self.origin
        first: Any = entry.grad_fn
        if origin is None:
            return None if entry.requires_grad else Found(node, (), None)
        if first is None or entry.output_nr or node.next_functions[self.edge][0] is not first:  # type: ignore[attr-defined]
            return None
        nodes: list[Any] = []
        current: Any = first
        for expected in origin.types:
            if type(current) is not expected:
                return None
            nodes.append(current)
            onward = current.next_functions  # type: ignore[attr-defined]
            if len(onward) > 1 and not all(child is None or _is_leaf(child) for child, _ in onward[1:]):
                return None
            current = onward[0][0]
        parent = products.get(current)
        if parent is None or parent.record.key != origin.key or parent is batch:
            return None
        nodes.append(current)
        return Found(node, tuple(nodes), parent)


@dataclass(frozen=True, eq=False, slots=True)
class Found:
    """Nodes of a call that repeats.

    Attributes:
        node: The node of its product.
        nodes: Nodes from its input back to the product of the layer before, that one included.
        parent: The call before.
    """

    node: Any
    nodes: tuple[Any, ...]
    parent: MicroBatch | None


def learn(
    product: Product | None, how: str, entry: Tensor | None, output: Tensor, origin: Origin | None
) -> Memo | None:
    """Keep what was found of a call, where that is simple enough to be tested for.

    Args:
        product: Node of its product.
        how: How its own contribution is learnt.
        entry: Its input.
        output: Its output.
        origin: Where its input comes from.
    """
    node = _node_of(output)
    if product is None or entry is None or node is not product.node or output._is_view():
        return None
    edge = product.input_edge
    if not entry.requires_grad:
        return Memo(type(node), edge, entry.shape, output.shape, None)
    if origin is None or how != "product" or node.next_functions[edge][0] is not entry.grad_fn:
        return None
    return Memo(type(node), edge, entry.shape, output.shape, origin)


def origin_of(key: Key, path: tuple[Any, ...], way: Way, name: str, entry: Tensor) -> Origin | None:
    """Describe the way from the layer before, where it is a chain of first edges; None for any other.

    Args:
        key: The layer call before.
        path: Nodes of the way, nearest to that call first.
        way: What was read off them.
        name: The activation function that was found.
        entry: Where the way ends.
    """
    if name == "?" or way.activation not in ("known", "identity") or not way.understood:
        return None
    nodes: tuple[Any, ...] = tuple(reversed(path))
    if any(node.next_functions[0][0] is not following for node, following in pairwise(nodes)):
        return None
    if any(sum(child is not None and not _is_leaf(child) for child, _ in node.next_functions) > 1 for node in nodes):
        return None
    if entry.output_nr or not all(_has_own_type(node) for node in nodes):
        return None
    has_phi = way.activation == "known"
    if has_phi and not (nodes and _node_of(entry) is nodes[0] and _is_by_result(way, nodes[0])):
        return None
    return Origin(key, tuple(type(node) for node in nodes), name, way.norm, way.direct, has_phi)


def _is_by_result(way: Way, node: Any) -> bool:
    return node.name() in BY_RESULT and node is way.node


def _node_of(tensor: Tensor) -> Any:
    return tensor.grad_fn


def _has_own_type(node: Any) -> bool:
    """Tell whether the type of a node tells its function."""
    return type(node).__name__ == node.name() and not isinstance(node, BackwardCFunction)


def _is_leaf(node: Any) -> bool:
    return bool(node.name() == "torch::autograd::AccumulateGrad")


def phi_of(name: str, node: Any, value: Tensor) -> Phi | None:
    """The call of an activation function whose value arrived; None where it cannot be read.

    Args:
        name: The function.
        node: Autograd node of the call.
        value: What arrived.
    """
    if value._version == 0:
        return from_result(name, value.detach())
    # Changed in place, at the latest by the call itself: autograd knows whether that was the last change.
    return None if is_packed(node) else from_result(name, node._saved_result)
