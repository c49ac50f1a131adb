"""What a layer call sends back through its own weights: where autograd shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from gradscope.probe.graph import RESHAPES, Product


@dataclass(frozen=True)
class Contribution:
    """How to learn a call's own contribution to the gradient of its input.

    Attributes:
        how: ``none`` (the input needs no gradient), ``product`` (the product's gradient has the input's entries),
            ``node`` (another node stands between, such as a padding), ``circular`` (a circular padding, whose gradient
            must be folded), or ``unknown``.
        node: The node that stands between.
    """

    how: Literal["none", "product", "node", "circular", "unknown"]
    node: Any | None = None


def find_contribution(product: Product, entry: Tensor, module: nn.Module) -> Contribution:
    """Follow the product's input edge to the tensor that entered the layer."""
    if not entry.requires_grad:
        return Contribution("none")
    node, between, reshaped = product.node.next_functions[product.input_edge][0], None, True
    for _ in range(8):
        if node is None:
            break
        if _is_end(node, entry):
            return Contribution("product") if reshaped else Contribution("node", between)
        onward = [child for child, _ in node.next_functions if child is not None]
        if len(onward) != 1:
            break
        reshaped = reshaped and node.name().startswith(RESHAPES)
        node, between = onward[0], node
    if isinstance(module, _ConvNd) and module.padding_mode == "circular":
        return Contribution("circular")
    return Contribution("unknown")


def _is_end(node: Any, entry: Tensor) -> bool:
    if entry.grad_fn is not None:
        return node is entry.grad_fn
    return getattr(node, "variable", None) is entry


def fold_circular(sent: Tensor, shape: torch.Size, module: nn.Module) -> Tensor:
    """Send a gradient of the padded input back through the circular padding of a convolution."""
    assert isinstance(module, _ConvNd)
    with torch.enable_grad():
        entry = torch.zeros(shape, dtype=sent.dtype, device=sent.device, requires_grad=True)
        padded = F.pad(entry, module._reversed_padding_repeated_twice, mode="circular")
        (folded,) = torch.autograd.grad(padded, entry, sent.reshape(padded.shape))
    return folded
