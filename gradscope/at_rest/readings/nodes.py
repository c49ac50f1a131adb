"""What one node of the autograd graph does to a signal, from its name and from what it saved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gradscope.at_rest.readings.functions import named_activation, read_activation
from gradscope.at_rest.readings.parts import (
    Affine,
    Dropout,
    Normalization,
    Part,
    Pass,
    Phi,
    Scale,
    Sum,
    Unknown,
)
from gradscope.probe.following import NORMS
from gradscope.probe.functions import is_activation
from gradscope.probe.graph import RESHAPES, edges, softsign_input
from gradscope.theory.stages import Pool

Steps = list[tuple[Part, tuple[Any, ...]]]
_SHAPES = (*RESHAPES, "Clone", "Flatten", "Contiguous", "TBackward", "Detach", "Copy", "AsStrided")
_MATRIX_PRODUCTS = ("mm", "Mm", "Mv", "Dot")
_LEAF = "torch::autograd::AccumulateGrad"


def read_node(node: Any) -> list[tuple[Part, tuple[Any, ...]]]:
    """Return what a node does, last part first, each with the nodes it takes; only the last of them names nodes.

    Args:
        node: A node of the autograd graph that is neither a layer's output nor a leaf.
    """
    name = node.name()
    inner = softsign_input(node)
    if inner is not None:
        return [(Phi(_known("softsign")), (inner,))]
    for starts, read in _READERS:
        if name.startswith(starts):
            return read(node)
    if is_activation(name):
        return _read_phi(node)
    if name.startswith(_SHAPES):
        return [(Pass(), tuple(edges(node)[:1]))]
    return [_unknown(node)]


def is_constant(node: Any) -> bool:
    """Tell whether a node computes from parameters and constants alone, in a few steps."""
    stack, seen = [node], 0
    while stack:
        one = stack.pop()
        seen += 1
        if one.name() == _LEAF:
            if not isinstance(one.variable, torch.nn.Parameter):
                return False
            continue
        children = [child for child, _ in one.next_functions if child is not None]
        if not children or seen > 16:
            return False
        stack.extend(children)
    return True


def _children(node: Any) -> list[tuple[int, Any]]:
    """Nodes that a node takes data from, with their places; parameters are left out."""
    found = [(place, child) for place, (child, _) in enumerate(node.next_functions) if child is not None]
    return [(place, child) for place, child in found if not is_constant(child)]


def _unknown(node: Any, why: str = "") -> tuple[Part, tuple[Any, ...]]:
    kind = node.name().removeprefix("torch::autograd::").rstrip("0123456789").removesuffix("Backward")
    if kind.endswith(_MATRIX_PRODUCTS) or kind.startswith("ScaledDot"):
        why = "matrix products outside of layers, as in attention, are not known to theory"
    return Unknown(why or f"{kind} is not known to theory"), tuple(child for _, child in _children(node))


def _read_phi(node: Any) -> Steps:
    activation = read_activation(node)
    if activation is None:
        return [_unknown(node)]
    return [(Phi(activation), tuple(edges(node)[:1]))]


def _known(name: str) -> Any:
    return named_activation(name)


def _read_sum(node: Any) -> Steps:
    """A sum; a parameter that is added is a shift, a constant has left no trace of its size."""
    children = _children(node)
    sign = 1.0 if node.name().startswith("Add") else -1.0
    alpha = sign * float(getattr(node, "_saved_alpha", 1.0))
    leaves = [child for child, _ in node.next_functions if child is not None and is_constant(child)]
    turned = node.name().startswith("Rsub")
    if len(children) == 2:
        return [(Sum((alpha, 1.0) if turned else (1.0, alpha)), tuple(child for _, child in children))]
    if len(children) == 1 and len(leaves) == 1 and not turned:
        value = _leaf_value(leaves[0])
        if value is not None:
            return [(Affine(1.0, alpha**2 * float(value.square().mean())), (children[0][1],))]
    return [_unknown(node, "a constant is added, whose size leaves no trace")]


def _read_product(node: Any) -> Steps:
    if any(child.name() == "RsqrtBackward0" for child in edges(node)):
        others = [child for child in edges(node) if child.name() != "RsqrtBackward0"]
        # x / sqrt(mean x^2): mean squares like a layer normalization of what has no mean.
        return [(Normalization("layer", 0.0), tuple(others))]
    children = _children(node)
    if len(children) != 1:
        return [_unknown(node, "activations are multiplied with each other (gating, attention)")]
    place, child = children[0]
    other = getattr(node, "_saved_self" if place == 1 else "_saved_other", None)
    if not isinstance(other, Tensor):
        return [_unknown(node, "a factor has left no trace of its size")]
    return [(_factor_part(other.detach().double(), node.name().startswith("Div")), (child,))]


def _factor_part(factor: Tensor, divides: bool) -> Part:
    factor = 1 / factor if divides else factor
    if factor.numel() == 1:
        return Scale(float(factor))
    largest = float(factor.abs().max())
    kept = factor != 0
    if bool(((factor == largest) | ~kept).all()) and largest > 1 and not bool(kept.all()):
        return Dropout(1 - 1 / largest)
    return Affine(float(factor.square().mean()), 0.0)


def _read_dropout(node: Any) -> Steps:
    return [(Dropout(float(node._saved_p)), tuple(edges(node)[:1]))]


def _read_negation(node: Any) -> Steps:
    return [(Scale(-1.0), tuple(edges(node)[:1]))]


def _read_norm(node: Any) -> Steps:
    name, entry = node.name(), tuple(child for _, child in _children(node))
    kind = NORMS[name]
    if kind not in ("batch", "layer", "group"):
        return [_unknown(node, f"theory knows no {kind} normalization")]
    if kind == "batch" and _is_instance(node):
        return [_unknown(node, "theory knows no instance normalization")]
    training = bool(getattr(node, "_saved_training", True))
    factor, shift = _affine(node)
    if kind == "batch" and not training:
        spread = (node._saved_running_var.double() + _eps(node)).sqrt()
        factor = factor / spread
        shift = shift - node._saved_running_mean.double() * factor
        return [(_affine_part(factor, shift), entry)]
    norm = Normalization("batch" if kind == "batch" else "layer", _eps(node), _together(node))
    if bool((factor == 1).all()) and bool((shift == 0).all()):
        return [(norm, entry)]
    return [(_affine_part(factor, shift), ()), (norm, entry)]


def _together(node: Any) -> tuple[int, ...]:
    """Return the sizes of what a layer or group normalization takes of a sample at once."""
    if hasattr(node, "_saved_group"):
        return (int(node._saved_C) // int(node._saved_group), *(int(one) for one in node._saved_input.shape[2:]))
    return tuple(int(one) for one in getattr(node, "_saved_normalized_shape", ()))


def _affine_part(factor: Tensor, shift: Tensor) -> Affine:
    return Affine(float(factor.square().mean()), float(shift.square().mean()))


def _affine(node: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of a normalization, 1 and 0 where there are none; a bias is known by its edge alone."""
    weight = getattr(node, "_saved_weight", None)
    bias = _leaf_value(node.next_functions[2][0]) if len(node.next_functions) > 2 else None
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    return (one if weight is None else weight.detach().double()), (zero if bias is None else bias)


def _eps(node: Any) -> float:
    for name in ("_saved_eps", "_saved_epsilon"):
        if hasattr(node, name):
            return float(getattr(node, name))
    # A layer normalization keeps 1 / sqrt(variance + eps) instead; where rounding hides eps it does not matter.
    shape, entry = node._saved_normalized_shape, node._saved_input.detach().double()
    dims = tuple(range(-len(shape), 0))
    found = node._saved_result2.detach().double().pow(-2) - entry.var(dims, unbiased=False, keepdim=True)
    return max(0.0, float(found.median()))


def _is_instance(node: Any) -> bool:
    """Instance normalization is a batch normalization of a batch of one with as many channels as samples x channels."""
    entry = edges(node)
    shape = node._saved_input.shape
    return shape[0] == 1 and shape[1] > 1 and bool(entry) and entry[0].name().startswith(("View", "Unsafe", "Reshape"))


def _leaf_value(node: Any) -> Tensor | None:
    while node is not None and node.name() != _LEAF:
        onward = [child for child, _ in node.next_functions if child is not None]
        node = onward[0] if len(onward) == 1 else None
    return None if node is None else node.variable.detach().double()


def _read_pool(node: Any) -> Steps:
    kind = "max" if "Max" in node.name() else "mean"
    entry = tuple(edges(node)[:1])
    if "Adaptive" in node.name():
        before, after = node._saved_self.shape, node._input_metadata[0].shape
        dims = len(before) - 2
        window = tuple(int(a) // int(b) for a, b in zip(before[-dims:], after[-dims:], strict=True))
        whole = all(int(a) % int(b) == 0 for a, b in zip(before[-dims:], after[-dims:], strict=True))
        return [(_pool(kind, window), entry)] if whole else [_unknown(node, "pooling windows overlap")]
    window = tuple(int(one) for one in node._saved_kernel_size)
    stride = tuple(int(one) for one in node._saved_stride) or window
    plain = stride == window and not any(node._saved_padding) and set(getattr(node, "_saved_dilation", (1,))) == {1}
    return [(_pool(kind, window), entry)] if plain else [_unknown(node, "pooling windows overlap or are padded")]


def _pool(kind: str, window: tuple[int, ...]) -> Part:
    return Pool("max" if kind == "max" else "mean", window) if max(window) > 1 else Pass()


def _read_mean(node: Any) -> Steps:
    """A mean over all positions of a convolution is a pooling; any other is not known."""
    shape = [int(one) for one in node._saved_self_sym_sizes]
    dims = sorted(int(one) % 2**64 for one in node._saved_dim)
    dims = sorted(one - 2**64 if one >= 2**63 else one for one in dims)
    places = sorted(one % len(shape) for one in dims)
    if len(shape) > 2 and places == list(range(2, len(shape))):
        return [(_pool("mean", tuple(shape[2:])), tuple(edges(node)[:1]))]
    return [_unknown(node, "a mean that is not over all positions")]


_READERS: tuple[tuple[tuple[str, ...], Callable[[Any], Steps]], ...] = (
    (("AddBackward", "SubBackward", "RsubBackward"), _read_sum),
    (("MulBackward", "DivBackward"), _read_product),
    (("NativeDropout",), _read_dropout),
    (("NegBackward",), _read_negation),
    (tuple(NORMS), _read_norm),
    (("MeanBackward1",), _read_mean),
    (
        (
            "MaxPool2DWithIndices",
            "MaxPool3DWithIndices",
            "AvgPool2D",
            "AvgPool3D",
            "AdaptiveAvgPool",
            "AdaptiveMaxPool",
        ),
        _read_pool,
    ),
)
