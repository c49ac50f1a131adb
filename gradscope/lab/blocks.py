"""The blocks that networks of the laboratory are made of: layer, normalization, activation, pooling, skip."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn

from gradscope.at_rest.remedies.phi import MODULES
from gradscope.lab.validation import choice
from gradscope.theory import ACTIVATIONS as KNOWN

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {name: MODULES[name] for name in KNOWN}
"""The activation functions that theory knows by name."""
NORMS = ("none", "batch", "layer")
POOLS: dict[str, Callable[[int], nn.Module]] = {"max": nn.MaxPool2d, "mean": nn.AvgPool2d}


class Block(nn.Sequential):
    """a = pool(phi(norm(W x))): a layer, its normalization if any, its activation, its pooling if any."""


class ResidualBlock(Block):
    """a = pool(x + phi(norm(W x))): a block that a skip goes around."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the sum of the input and the branch, pooled; input and branch have one shape."""
        branch = input
        for name, module in self.named_children():
            if name != "pool":
                branch = module(branch)
        total = input + branch
        pool = self._modules.get("pool")
        return total if pool is None else pool(total)


def block(
    name: str,
    layer: nn.Module,
    activation: str,
    norm: str,
    shape: tuple[int, ...],
    *,
    residual: bool,
    pool: str | None = None,
) -> Block:
    """Put a layer, whose output has ``shape`` per sample, together with what follows it."""
    parts: OrderedDict[str, nn.Module] = OrderedDict({name: layer})
    normalization = _norm(norm, shape)
    if normalization is not None:
        parts["norm"] = normalization
    parts["activation"] = ACTIVATIONS[choice("activation", activation, ACTIVATIONS)]()
    if pool is not None:
        parts["pool"] = POOLS[pool](2)
    return (ResidualBlock if residual else Block)(parts)


def _norm(name: str, shape: tuple[int, ...]) -> nn.Module | None:
    choice("normalization", name, NORMS)
    if name == "layer":
        return nn.LayerNorm(shape)
    if name == "batch":
        return nn.BatchNorm1d(shape[0]) if len(shape) == 1 else nn.BatchNorm2d(shape[0])
    return None
