"""The remedy that normalizes between layer and activation function."""

from __future__ import annotations

from torch import nn

from gradscope.at_rest.remedies.registry import Patient, Treatment
from gradscope.checks import NotApplicable
from gradscope.probe.layers import find_layers

_BATCH = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def normalize(patient: Patient) -> list[Treatment] | NotApplicable:
    """Put batch normalization, and as another variant layer normalization, behind every hidden layer without one.

    Batch normalization makes the units differ between samples again; layer normalization only sets the scale. Linear
    layers on sequences get layer normalization only, and convolutions a group normalization with one group instead.
    """
    bare = list(dict.fromkeys(spec.layer for spec in patient.before.hidden if spec.norm == "none"))
    if not patient.before.hidden:
        return NotApplicable("no layer follows another: there is no hidden one")
    if not bare:
        return NotApplicable("every hidden layer is followed by a normalization already")
    shapes = {name: one.output for name, one in patient.shapes().items()}
    kinds = ["batch", "layer"] if _samples(patient.original, bare, shapes) else ["layer"]
    return [_normalized(patient, bare, shapes, kind) for kind in kinds]


def with_batch_norm(model: nn.Module, patient: Patient) -> nn.Module | None:
    """Put batch normalization behind the hidden layers of a treated model that have none; None where it cannot be."""
    bare = list(dict.fromkeys(spec.layer for spec in patient.before.hidden if spec.norm == "none"))
    shapes = {name: one.output for name, one in patient.shapes().items()}
    return _insert(model, bare, shapes, "batch") if _samples(model, bare, shapes) else None


def _samples(model: nn.Module, bare: list[str], shapes: dict[str, tuple[int, ...]]) -> bool:
    """Tell whether the first dimension of every output counts samples, and the last or the second counts units."""
    layers = {layer.name: layer.module for layer in find_layers(model)}
    sequences = any(isinstance(layers[name], nn.Linear) and len(shapes[name]) != 2 for name in bare)
    return not sequences and all(shapes[name][0] > 1 for name in bare)


def _normalized(patient: Patient, bare: list[str], shapes: dict[str, tuple[int, ...]], kind: str) -> Treatment:
    twin = _insert(patient.copy(), bare, shapes, kind)
    return Treatment(f"{kind} normalization behind {len(bare)} layers", twin, variant=kind)


def _insert(twin: nn.Module, bare: list[str], shapes: dict[str, tuple[int, ...]], kind: str) -> nn.Module:
    for name in bare:
        layer = twin.get_submodule(name)
        weight = next(layer.parameters())
        norm = _norm(kind, layer, shapes[name]).to(weight.device, weight.dtype).train(layer.training)
        twin.set_submodule(name, nn.Sequential(layer, norm))
    return twin


def _norm(kind: str, layer: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return nn.BatchNorm1d(shape[-1]) if kind == "batch" else nn.LayerNorm(shape[-1])
    return _BATCH[len(shape)](shape[1]) if kind == "batch" else nn.GroupNorm(1, shape[1])
