"""The remedy that puts other activation functions in place."""

from __future__ import annotations

from dataclasses import replace

from gradscope.at_rest.remedies.critical import draw_critical
from gradscope.at_rest.remedies.phi import MODULES, activations_in
from gradscope.at_rest.remedies.registry import Patient, Treatment
from gradscope.checks import NotApplicable

CHOICES = ("relu", "tanh", "leaky_relu")
_SWAPPED = {kind for name, kind in MODULES.items() if name != "identity"}


def change_activation(patient: Patient) -> list[Treatment] | NotApplicable:
    """Put relu, tanh or leaky_relu in the place of the activation modules, with weights critical for it.

    Modules that come after the last layer, such as a sigmoid before the loss, stay. Functions that a model calls
    without a module cannot be reached.
    """
    names = _between_layers(patient)
    active = [spec for spec in patient.before.hidden if spec.activation != "identity"]
    if not active:
        return NotApplicable("no activation function was seen between the layers")
    shown = sum(names.values())
    if shown < len(active):
        return NotApplicable(
            f"{len(active) - shown} of {len(active)} activation functions are called without a module of their own "
            "between the layers: there is nothing to swap"
        )
    now = {spec.activation for spec in active}
    # The leak is a variant of relu: a net of relu gets it, others get relu itself.
    wanted = [name for name in CHOICES if name not in now and (name != "leaky_relu" or "relu" in now)]
    return [_swapped(patient, list(names), name) for name in wanted]


def _swapped(patient: Patient, names: list[str], activation: str) -> Treatment:
    twin = patient.copy()
    everywhere = list(twin.named_modules(remove_duplicate=False))
    old = {id(twin.get_submodule(name)) for name in names}
    for name, module in everywhere:
        if id(module) in old:
            twin.set_submodule(name, MODULES[activation]())
    changed = [
        spec if spec.activation == "identity" else replace(spec, activation=activation) for spec in patient.before.specs
    ]
    draw_critical(twin, activations_in(changed))
    return Treatment(
        f"{activation} as activation function, weights critical for it, biases zero", twin, variant=activation
    )


def _between_layers(patient: Patient) -> dict[str, int]:
    """Return the activation modules whose calls all come before the last layer's, with the number of their calls."""
    shapes = patient.shapes()
    last = max(shapes[spec.layer].order for spec in patient.before.specs)
    kinds = {name for name, module in patient.original.named_modules() if type(module) in _SWAPPED}
    return {name: one.calls for name, one in shapes.items() if name in kinds and one.order < last}
