"""What follows a layer: the normalization and the activation function between its output and its next use."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gradscope.probe.functions import (
    Phi,
    is_activation,
    is_packed,
    recognise,
    recognise_by_values,
    recognise_packed,
    softsign,
)
from gradscope.probe.graph import RESHAPES, edges, softsign_input
from gradscope.probe.reduce import flat, sample
from gradscope.probe.rms import is_rms

NORMS = {
    "NativeBatchNormBackward0": "batch",
    "CudnnBatchNormBackward0": "batch",
    "MiopenBatchNormBackward0": "batch",
    "NativeLayerNormBackward0": "layer",
    "NativeGroupNormBackward0": "group",
    "FusedRmsNormBackward0": "rms",
    "LocalResponseNormBackward0": "local",
}
_HIDDEN = "torch::autograd::CopySlices"
# What changes shape, place or type only; two-edged sums and unknown nodes are judged by their edges.
_PLUMBING = (
    "Alias",
    "AsStrided",
    "Cat",
    "Clone",
    "ConstantPadNd",
    "Copy",
    "CopyBackwards",
    "CopySlices",
    "Detach",
    "Dropout",
    "Expand",
    "Flatten",
    "Gather",
    "Index",
    "IndexSelect",
    "Mean",
    "Narrow",
    "Neg",
    "Pad",
    "Permute",
    "PixelShuffle",
    "Pool",
    "Repeat",
    "Reshape",
    "Roll",
    "Select",
    "Slice",
    "Split",
    "Squeeze",
    "Stack",
    "SubBackward",
    "Sum",
    "TBackward",
    "ToCopy",
    "Transpose",
    "Unbind",
    "Unfold",
    "UnsafeView",
    "Unsqueeze",
    "Upsample",
    "View",
    "AddBackward",
    "FeatureDropout",
    # What fully_shard puts before a module, and DistributedDataParallel behind one: both hand on what they get.
    "RegisterPostBackwardFunction",
    "_DDPSink",
)


@dataclass(frozen=True)
class Way:
    """What lies between a layer's output and whatever uses it next.

    Attributes:
        norm: Kind of normalization before the activation function, ``none`` without.
        norm_node: Its autograd node.
        activation: ``known`` (``node`` is its call), ``softsign``, ``hidden`` (in place on a view), ``identity`` or
            ``?``.
        node: Autograd node of the activation function.
        direct: Whether the activation function receives the output (or its normalization) and nothing is added.
        arrives: Whether what the activation function returns is what arrives at the end, but for its shape.
        understood: Whether every node on the way is known; a product that is not watched is not.
    """

    norm: str
    norm_node: Any | None
    activation: str
    node: Any | None
    direct: bool = True
    arrives: bool = False
    understood: bool = True


def read_way(path: tuple[Any, ...], output_is_view: bool) -> Way:
    """Find normalization and activation function on a path, nearest to the layer first."""
    norm, norm_node, direct = "none", None, True
    understood = all(_is_known(node) for node in path)
    for place, node in enumerate(path, start=1):
        name = node.name()
        if is_activation(name):
            arrives = all(after.name().startswith(RESHAPES) for after in path[place:])
            return Way(norm, norm_node, "known", node, direct, arrives, understood)
        if softsign_input(node) is not None:
            return Way(norm, norm_node, "softsign", node, direct, understood=understood)
        if name == _HIDDEN and output_is_view and direct and norm_node is None:
            return Way(norm, norm_node, "hidden", node, understood=understood)
        if name in NORMS or is_rms(node):
            norm, norm_node = NORMS.get(name, "rms"), node
        elif not _is_plumbing(node):
            return Way(norm, norm_node, "?", None, direct=False, understood=False)
        direct = direct and (norm_node is node or name.startswith(RESHAPES))
    return Way(norm, norm_node, "identity", None, direct, understood=understood)


def _is_known(node: Any) -> bool:
    name = node.name()
    return (
        is_activation(name) or softsign_input(node) is not None or name in NORMS or is_rms(node) or _is_plumbing(node)
    )


def is_bypassed(way: Way, path: tuple[Any, ...], products: Mapping[Any, Any], call: object) -> bool:
    """Tell whether the layer's output also reaches the end of the path around its activation function.

    Args:
        way: What was found on the path.
        path: Nodes from the layer on.
        products: Nodes at which a way around ends, and whose calls they are.
        call: The layer's call.
    """
    first = 0 if way.node is None else path.index(way.node) + 1
    stack: list[Any] = []
    for place in range(first, len(path)):
        onward = edges(path[place])
        if len(onward) > 1 and not is_rms(path[place]):
            # All but the edge that the path itself takes.
            taken = path[place - 1] if place else next((one for one in onward if products.get(one) is call), None)
            if taken in onward:
                onward.remove(taken)
            stack.extend(onward)
    seen: set[Any] = set()
    while stack and len(seen) < 64:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node in products:
            if products[node] is call:
                return True
            continue
        stack.extend(edges(node))
    return False


def _is_plumbing(node: Any) -> bool:
    name = node.name().removeprefix("torch::autograd::")
    if name.startswith(("Mul", "Div")):
        return len(edges(node)) <= 1
    return name.startswith(_PLUMBING) or "Pool" in name or "Dropout" in name or "Pad" in name


def find_phi(way: Way, end: Tensor, seen: tuple[weakref.ref[Tensor], Tensor] | None) -> tuple[str, Phi | None]:
    """Return the name of the activation function, and its call where its values can be read.

    Args:
        way: What lies between the layer and its next use.
        end: The tensor at the next use.
        seen: The layer's output and a sample of what it held, where it is a view.

    Raises:
        RuntimeError: What autograd saved has been changed in place since.
    """
    if way.activation in ("identity", "?"):
        return way.activation, None
    if way.node is not None and is_packed(way.node):
        if way.activation == "softsign":
            return "softsign", None
        return recognise_packed(way.node, end.detach() if way.arrives else None)
    phi = _read_phi(way, seen)
    return (phi.name if phi else "?"), phi


def _read_phi(way: Way, seen: tuple[weakref.ref[Tensor], Tensor] | None) -> Phi | None:
    if way.activation == "known":
        return recognise(way.node)
    if way.activation == "softsign" and way.node is not None:
        return softsign(way.node._saved_self)
    after = seen[0]() if seen else None
    if seen is None or after is None:
        return None
    result = after.detach()
    return recognise_by_values(seen[1], sample(flat(result), result.shape[-1]), result)
