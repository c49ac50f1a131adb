"""Which activation function stands between which layers, as theory needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gradscope.at_rest.preflight_step import first_step
from gradscope.at_rest.reading_copy import copy_model, undisturbed
from gradscope.at_rest.verification.comparison import leaves
from gradscope.errors import InvalidValueError
from gradscope.probe.layers import Layer, find_layers
from gradscope.spec import LayerSpec
from gradscope.theory import ACTIVATIONS, Activation, activation_of

MODULES: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softsign": nn.Softsign,
    "celu": nn.CELU,
    "hardsigmoid": nn.Hardsigmoid,
    "hardswish": nn.Hardswish,
    "hardtanh": nn.Hardtanh,
    "logsigmoid": nn.LogSigmoid,
    "mish": nn.Mish,
    "relu6": nn.ReLU6,
    "softplus": nn.Softplus,
}
"""Activation functions by the names that a run gives them."""
_BY_CLASS = {kind: name for name, kind in MODULES.items()}


def activations_of(model: nn.Module, x: Any | None = None) -> dict[str, Activation]:
    """Return by layer the activation function that its input comes through: it makes this layer's weights critical.

    chi = sigma_w^2 E phi'^2 joins the activation function of one layer with the weights of the next. The first layer,
    whose input comes through none, goes with the function that follows it.

    Args:
        model: The model.
        x: A sample, with which the graph is read; None reads the order in which modules are registered.

    Raises:
        InvalidValueError: An activation function was not recognised, or cannot be told without a sample.
        Exception: what the model itself raises.
    """
    if x is None:
        return _paired(_registered(model))
    with undisturbed():
        twin = copy_model(model, "initialize")
        with first_step(twin, x, None, _mean_square, name="initialize") as run:
            specs = run.specs
    return activations_in(specs)


def activations_in(specs: Sequence[LayerSpec]) -> dict[str, Activation]:
    """Do what `activations_of` does with layers that have been read."""
    followed = {spec.id: spec.activation for spec in specs}
    pairs: dict[str, tuple[str, str | Activation]] = {}
    for spec in sorted(specs, key=lambda one: one.depth):
        before = [followed[parent] for parent in spec.parents if parent in followed]
        pairs.setdefault(spec.layer, (spec.layer, before[-1] if before else spec.activation))
    return {layer: _known(layer, given) for layer, given in pairs.values()}


def _known(layer: str, name: str | Activation) -> Activation:
    if isinstance(name, Activation):
        return name
    if name not in MODULES:
        raise InvalidValueError(f"the activation function next to layer {layer!r} was not recognised")
    return phi_of(MODULES[name]())


def _registered(model: nn.Module) -> list[tuple[Layer, Activation | None]]:
    """Return each layer with the activation function registered before the next; None for none."""
    layers = {layer.module: layer for layer in find_layers(model)}
    found: list[tuple[Layer, Activation | None]] = []
    for module in model.modules():
        if module in layers:
            found.append((layers[module], None))
        elif found and type(module) in _BY_CLASS and _open(found[-1][1]):
            found[-1] = (found[-1][0], phi_of(module))
    return found


def _open(so_far: Activation | None) -> bool:
    """An identity may stand in for what was left out; the activation function may yet come."""
    return so_far is None or so_far.name == "identity"


def _paired(found: Sequence[tuple[Layer, Activation | None]]) -> dict[str, Activation]:
    if len(found) == 1:
        return {layer.name: phi or activation_of("identity") for layer, phi in found}
    pairs: dict[str, Activation] = {}
    for (layer, _), (source, phi) in zip(found, [found[0], *found[:-1]], strict=True):
        if phi is None:
            raise InvalidValueError(
                f"no activation module is registered between layer {source.name!r} and the next; "
                "give sample=, a batch of inputs, with which the graph is read"
            )
        pairs[layer.name] = phi
    return pairs


def phi_of(module: nn.Module) -> Activation:
    """Return what theory needs of an activation module, with its own constants.

    >>> phi_of(nn.LeakyReLU(0.2)).sides
    (0.2, 1.0)
    """
    name = _BY_CLASS[type(module)]
    constants = module.extra_repr().replace(", inplace=True", "").replace("inplace=True", "")
    plain = name in ACTIVATIONS and constants == MODULES[name]().extra_repr()
    return activation_of(name) if plain else _from_torch(module, name)


def _from_torch(module: nn.Module, name: str) -> Activation:
    def phi(u: NDArray[np.float64]) -> NDArray[np.float64]:
        with torch.no_grad():
            # A copy: some modules work in place.
            result: NDArray[np.float64] = module(torch.tensor(u, dtype=torch.float64)).numpy()
        return result

    phi.__name__ = name
    return activation_of(phi)


def _mean_square(output: Any, _: Any) -> Tensor:
    """A loss for reading the graph: of whatever a model returns."""
    tensors = [one for _, one in leaves(output) if isinstance(one, Tensor) and one.requires_grad]
    if not tensors:
        raise InvalidValueError("the model returns no tensor that depends on its parameters")
    total = torch.stack([one.abs().square().mean() for one in tensors])
    return total.sum()
