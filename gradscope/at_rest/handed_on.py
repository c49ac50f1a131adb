"""What the layer calls of a model at rest hand on, for one sample."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gradscope.at_rest.preflight_step import first_step
from gradscope.at_rest.reading_copy import copy_input, copy_model, undisturbed
from gradscope.errors import InvalidTypeError, InvalidValueError
from gradscope.information.positions import pooled_depths
from gradscope.probe.layers import LayerFilter, find_layers
from gradscope.probe.representations import Spatial, check_spatial, collect, features
from gradscope.spec import LayerSpec

INPUT = "input"


@dataclass(frozen=True, eq=False)
class Representation:
    """What one layer call hands on.

    Attributes:
        depth: Its depth; 0 is the input.
        layer: Its name, a later call of the same layer with its number.
        values: Shape (samples, features).
        pooled: Whether the features are means over positions.
    """

    depth: int
    layer: str
    values: NDArray[np.float32]
    pooled: bool = False

    @property
    def name(self) -> str:
        """A name that no other one has."""
        return f"{self.layer}, depth {self.depth}"


def handed_on(model: nn.Module, x: Any, layers: LayerFilter, spatial: Spatial, purpose: str) -> list[Representation]:
    """Return the input and what every layer call hands on, in order of depth, from a copy in evaluation mode.

    Args:
        model: The model; it, its buffers and all random states stay as they are.
        x: A tensor (samples, ...), or what the model takes; its first tensor is the input.
        layers: As for ``watch``.
        spatial: What to do with positions.
        purpose: Who wants them, for the message of an error.

    Raises:
        InvalidTypeError: The model is no module, or no tensor is given.
        InvalidValueError: The model has no layers.
        Exception: what the model itself raises.
    """
    mode = check_spatial(spatial)
    first = _first(x)
    with undisturbed():
        twin = copy_model(model, purpose, train=False)
        specs = _specs(twin, x, layers, purpose)
        found = collect(twin, find_layers(twin, layers), specs, copy_input(x), mode)
    means = pooled_depths(specs) if mode == "pool" else set()
    calls = [
        Representation(one.depth, _named(one), found[one.id], one.depth in means) for one in specs if one.id in found
    ]
    return [Representation(0, INPUT, features(first, "flatten")), *sorted(calls, key=lambda one: one.depth)]


def _named(spec: LayerSpec) -> str:
    return spec.layer if spec.call == 1 else f"{spec.layer} (call {spec.call})"


def _first(x: Any) -> Tensor:
    """Return the tensor that stands for the input."""
    given = x if isinstance(x, Tensor) else next((one for one in _parts(x) if isinstance(one, Tensor)), None)
    if given is None:
        raise InvalidTypeError(f"x is a tensor (samples, ...) or holds one, not {type(x).__name__}")
    return given


def _parts(x: Any) -> Iterable[Any]:
    if isinstance(x, dict):
        return x.values()
    return x if isinstance(x, tuple | list) else ()


def _specs(twin: nn.Module, x: Any, layers: LayerFilter, purpose: str) -> tuple[LayerSpec, ...]:
    """Return the layer calls with their parents, from one watched pass of the copy."""
    for parameter in twin.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    # A counted pass is one in training mode; evaluation mode of every module inside it is what shall be seen.
    twin.training = True
    with first_step(twin, x, None, _any_loss, name=purpose, layers=layers) as run:
        specs = run.specs
    twin.training = False
    return specs


def _any_loss(output: Any, _: Any) -> Tensor:
    """Return a loss that reaches everything the model puts out."""
    tensors = [one for one in _leaves(output) if one.requires_grad]
    if not tensors:
        raise InvalidValueError("nothing that the model puts out depends on a parameter")
    return torch.stack([one.double().sum() for one in tensors]).sum()


def _leaves(output: Any) -> Iterable[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, tuple | list) else ()
    return [leaf for part in parts for leaf in _leaves(part)]
