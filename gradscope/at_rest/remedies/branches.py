"""The remedy that makes what blocks add to their skips smaller."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from gradscope.at_rest.remedies.registry import Patient, Shapes, Treatment
from gradscope.checks import NotApplicable
from gradscope.spec import LayerSpec

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def scale_branches(patient: Patient) -> list[Treatment] | NotApplicable:
    """Multiply what each of n blocks adds to its skip by 1/sqrt(n), through the last weights of the block.

    The gradient's mean square then grows by (1 + chi/n)^n < e^chi instead of (1 + chi)^n (Yang and Schoenholz 2017).
    Where a normalization follows the last layer of a block, its weights are the last.
    """
    last = _last_of_branches(patient.before.specs)
    if not last:
        return NotApplicable("no paths meet in this model: there is no skip")
    twin, shapes, factor = patient.copy(), patient.shapes(), 1.0 / math.sqrt(len(last))
    scaled = [_weights_after(twin, spec, shapes) for spec in last]
    bare = [spec.layer for spec, module in zip(last, scaled, strict=True) if module is None]
    if bare:
        return NotApplicable(f"what follows layer {bare[0]!r} normalizes, and has no weights to scale it by")
    with torch.no_grad():
        for parameter in {one for module in scaled if module is not None for one in module.parameters(recurse=False)}:
            parameter.mul_(factor)
    return [Treatment(f"what {len(last)} blocks add to their skips multiplied by {factor:.3g}", twin)]


def _last_of_branches(specs: tuple[LayerSpec, ...]) -> list[LayerSpec]:
    """Return the layers whose output is added to a skip: all that meet somewhere, but the lowest of those."""
    by_id = {spec.id: spec for spec in specs}
    found: dict[int, LayerSpec] = {}
    for spec in specs:
        meeting = sorted((by_id[parent] for parent in spec.parents if parent in by_id), key=lambda one: one.depth)
        found.update({one.id: one for one in meeting[1:]})
    return [found[id] for id in sorted(found)]


def _weights_after(model: nn.Module, spec: LayerSpec, shapes: Mapping[str, Shapes]) -> nn.Module | None:
    """Return the module whose weights set the size of what a block adds; None where there is none."""
    if spec.norm == "none":
        return model.get_submodule(spec.layer)
    start = shapes[spec.layer].order
    later = sorted((one.order, name) for name, one in shapes.items() if one.order > start)
    norms = (model.get_submodule(name) for _, name in later if isinstance(model.get_submodule(name), _NORMS))
    norm = next(norms, None)
    return norm if norm is not None and norm._parameters.get("weight") is not None else None
