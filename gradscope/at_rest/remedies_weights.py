"""Remedies that draw the weights anew."""

from __future__ import annotations

from gradscope.at_rest.remedies import Patient, Treatment
from gradscope.at_rest.remedies_critical import critical_point, draw_critical
from gradscope.at_rest.remedies_lsuv import center_units
from gradscope.at_rest.remedies_phi import activations_in
from gradscope.checks import NotApplicable


def critical_init(patient: Patient) -> list[Treatment] | NotApplicable:
    """Draw normal weights with the variance at which, by theory, chi = 1, and zero the biases."""
    twin, activations = patient.copy(), activations_in(patient.before.specs)
    draw_critical(twin, activations)
    points = {phi.name: critical_point(phi) for phi in activations.values()}
    named = ", ".join(f"{point[0]:.4g}/fan_in for {name}" for name, point in points.items())
    biases = {name: point[1] for name, point in points.items() if point[1]}
    zero = "".join(f", biases of variance {variance:.3g} for {name}" for name, variance in biases.items())
    return [Treatment(f"weights of the critical variance ({named}){zero or ', biases zero'}", twin)]


def centered_lsuv(patient: Patient) -> list[Treatment] | NotApplicable:
    """Give each unit mean 0 and standard deviation 1 over the batch."""
    twin = patient.copy()
    center_units(twin, patient.x)
    return [Treatment("each unit with mean 0 and standard deviation 1 over the batch (centred LSUV)", twin)]
