"""Remedies that change the path itself: skips around blocks, and fewer layers."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import Tensor, nn

from gradscope.at_rest.remedies.blocks import Group, groups
from gradscope.at_rest.remedies.registry import Patient, Treatment
from gradscope.at_rest.trials.measure import ALLOWED
from gradscope.checks import NotApplicable

NO_BLOCKS = "no two neighbouring blocks of a Sequential keep the shape of what goes through them"


class Skip(nn.Module):
    """x + scale * block(x)."""

    def __init__(self, block: nn.Module, scale: float) -> None:
        super().__init__()
        self.block, self.scale = block, scale

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the input and what the block adds."""
        added: Tensor = self.block(x)
        return x + self.scale * added

    def extra_repr(self) -> str:
        """Return the scale."""
        return f"scale={self.scale:.3g}"


def add_skips(patient: Patient) -> list[Treatment] | NotApplicable:
    """Let a skip go around each block that keeps its shape: x + block(x) / sqrt(number of blocks).

    With that factor the gradient's mean square grows by (1 + chi/n)^n < e^chi over n blocks (Yang and Schoenholz 2017).
    """
    if any(len(spec.parents) > 1 for spec in patient.before.specs):
        return NotApplicable("paths meet in this model already: it has skips")
    equal = [one for one in groups(patient) if one.equal]
    if len(equal) < 2:
        return NotApplicable(NO_BLOCKS)
    twin, scale = patient.copy(), 1.0 / math.sqrt(len(equal))
    for container in dict.fromkeys(one.container for one in equal):
        _wrap(twin, container, [one for one in equal if one.container == container], scale)
    return [Treatment(f"skips around {len(equal)} blocks, each scaled by {scale:.3g}", twin)]


def shallower(patient: Patient) -> list[Treatment] | NotApplicable:
    """Leave out blocks that keep their shape, from the top, until at most a decade is lost at the measured rate."""
    equal = [one for one in groups(patient) if one.equal]
    if len(equal) < 2:
        return NotApplicable(NO_BLOCKS)
    spare = _too_many(patient)
    if spare < 1:
        return NotApplicable(f"the layers that there are lose less than {ALLOWED:g} decade: none is too many")
    left_out = equal[-spare:]
    twin = patient.copy()
    for one in left_out:
        chain = twin.get_submodule(one.container)
        for child in one.children:
            delattr(chain, child)
    kept = len(patient.before.hidden) - len(left_out)
    return [Treatment(_shortened(len(left_out), kept), twin)]


def _shortened(left_out: int, kept: int) -> str:
    """Say what was done.

    >>> _shortened(1, 7), _shortened(8, 1)
    ('1 block left out, 7 hidden layers remain', '8 blocks left out, 1 hidden layer remains')
    """
    blocks = "1 block" if left_out == 1 else f"{left_out} blocks"
    return f"{blocks} left out, {'1 hidden layer remains' if kept == 1 else f'{kept} hidden layers remain'}"


def _too_many(patient: Patient) -> int:
    """Return how many layers fewer would lose `ALLOWED` decades; all but one where the rate is zero or unknown."""
    decay = patient.before.decay
    if not 0.0 < decay.rate < math.inf:
        return max(decay.layers - 2, 0)
    per_layer = abs(math.log10(decay.rate))
    if per_layer * (decay.layers - 1) <= ALLOWED:
        return 0
    return decay.layers - 1 - math.floor(ALLOWED / per_layer)


def _wrap(model: nn.Module, container: str, wrapped: list[Group], scale: float) -> None:
    """Put a skip around groups of one chain; the others keep their names."""
    chain = model.get_submodule(container)
    children = OrderedDict(chain.named_children())
    heads = {one.children[0]: one for one in wrapped}
    inside = {child for one in wrapped for child in one.children[1:]}
    for name in children:
        delattr(chain, name)
    for name, child in children.items():
        if name in heads:
            members = OrderedDict((one, children[one]) for one in heads[name].children)
            body = child if len(members) == 1 else nn.Sequential(members)
            chain.add_module(name, Skip(body, scale))
        elif name not in inside:
            chain.add_module(name, child)
