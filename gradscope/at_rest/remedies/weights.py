"""Remedies that draw the weights anew."""

from __future__ import annotations

from gradscope.at_rest.reading_copy import copy_model
from gradscope.at_rest.remedies.critical import critical_point, draw_critical
from gradscope.at_rest.remedies.lsuv import center_units
from gradscope.at_rest.remedies.normalization import with_batch_norm
from gradscope.at_rest.remedies.phi import activations_in
from gradscope.at_rest.remedies.registry import Patient, Treatment
from gradscope.checks import NotApplicable
from gradscope.probe.layers import find_layers


def critical_init(patient: Patient) -> list[Treatment] | NotApplicable:
    """Draw normal weights with the variance at which, by theory, chi = 1, and zero the biases."""
    frozen = _frozen(patient)
    if frozen:
        return frozen
    twin, activations = patient.copy(), activations_in(patient.before.specs)
    draw_critical(twin, activations)
    points = {phi.name: critical_point(phi) for phi in activations.values()}
    named = ", ".join(f"{point[0]:.4g}/fan_in for {name}" for name, point in points.items())
    biases = {name: point[1] for name, point in points.items() if point[1]}
    zero = "".join(f", biases of variance {variance:.3g} for {name}" for name, variance in biases.items())
    return [Treatment(f"weights of the critical variance ({named}){zero or ', biases zero'}", twin)]


def centered_lsuv(patient: Patient) -> list[Treatment] | NotApplicable:
    """Give each unit mean 0 and standard deviation 1 over the batch.

    The biases then depend on the weights, and theory knows no such thing; but on this batch a fully connected network
    is the same function as one whose batch normalization finds nothing left to do, and that theory knows.
    """
    frozen = _frozen(patient)
    if frozen:
        return frozen
    twin = patient.copy()
    center_units(twin, patient.x)
    dense = all(spec.kind == "Linear" for spec in patient.before.specs)
    known = with_batch_norm(copy_model(twin, "trial"), patient) if dense else None
    what = "each unit with mean 0 and standard deviation 1 over the batch (centred LSUV)"
    return [Treatment(what, twin, stand_in=known, foreseeable=known is not None)]


def _frozen(patient: Patient) -> NotApplicable | None:
    """Refuse a model that is trained in part: what is frozen holds something that is meant to stay."""
    layers = find_layers(patient.original)
    frozen = [layer.name for layer in layers if layer.weight is not None and not layer.weight.requires_grad]
    return NotApplicable(f"{len(frozen)} of {len(layers)} layers are frozen, not to be drawn anew") if frozen else None
