"""What the layers of a model make of a fixed sample: one forward pass in evaluation mode that leaves no trace."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gradscope.errors import InvalidTypeError, InvalidValueError
from gradscope.probe.layers import Layer
from gradscope.spec import LayerSpec

Spatial = Literal["pool", "flatten"]
Key = tuple[str, int]


def collect(
    model: nn.Module, layers: Sequence[Layer], specs: Sequence[LayerSpec], x: Any, spatial: Spatial = "pool"
) -> dict[int, NDArray[np.float32]]:
    """Return what each layer call hands on, by id: the input of the first call that has it as a parent.

    So it is the layer's output behind normalization, activation function, pooling and sums of skips; for a call that no
    other follows, such as the head's, its output.

    Everything is as before afterwards: training flags, buffers, random states, gradients. Of outputs with positions
    (convolutions, sequences) `pool` takes the mean over them, `flatten` keeps them all.

    Args:
        model: The model, without wrappers of torch.compile and distributed training.
        layers: Its layers.
        specs: The layer calls, with their parents.
        x: The sample; a tuple is given as ``model(*x)``, a mapping as ``model(**x)``.
        spatial: What to do with positions.

    Returns:
        Arrays of shape (samples, features) in float32; layer calls that the pass does not reach are left out.

    Raises:
        Exception: what the model itself raises.
    """
    inputs, outputs = _pass(model, layers, x)
    first = _first_child(specs)
    found: dict[int, NDArray[np.float32]] = {}
    for one in specs:
        child = first.get(one.id)
        tensor = inputs.get((child.layer, child.call)) if child is not None else outputs.get((one.layer, one.call))
        if tensor is not None:
            found[one.id] = features(tensor, spatial)
    return found


def features(tensor: Tensor, spatial: Spatial = "pool") -> NDArray[np.float32]:
    """Return a tensor as (samples, features): channels (images) or the last dimension (sequences) are the features.

    Raises:
        InvalidTypeError: It is no tensor of numbers with samples.
    """
    if not isinstance(tensor, Tensor) or tensor.ndim < 1 or tensor.is_complex():
        raise InvalidTypeError(f"a sample is a tensor (samples, ...) of real numbers, not {type(tensor).__name__}")
    values = tensor.detach().to("cpu", torch.float32)
    if values.ndim == 3 and spatial == "pool":
        values = values.mean(1)
    elif values.ndim > 3 and spatial == "pool":
        values = values.flatten(2).mean(2)
    return np.array(values.reshape(len(values), -1).numpy(), np.float32)


def check_spatial(given: object) -> Spatial:
    """Return what to do with positions.

    Raises:
        InvalidValueError: It is none of the choices.
    """
    if given not in get_args(Spatial):
        raise InvalidValueError(f"spatial is one of {', '.join(get_args(Spatial))}, not {given!r}")
    return given  # type: ignore[return-value]


def _first_child(specs: Iterable[LayerSpec]) -> dict[int, LayerSpec]:
    """Return for each layer call the first one, in order of depth, that takes in its output."""
    first: dict[int, LayerSpec] = {}
    for one in sorted(specs, key=lambda spec: spec.depth):
        for parent in one.parents:
            first.setdefault(parent, one)
    return first


def _pass(model: nn.Module, layers: Sequence[Layer], x: Any) -> tuple[Mapping[Key, Tensor], Mapping[Key, Tensor]]:
    """Run the sample through; return input and output of every call of a layer."""
    inputs: dict[Key, Tensor] = {}
    outputs: dict[Key, Tensor] = {}
    handles = [
        layer.module.register_forward_hook(_keep(layer.name, inputs, outputs), with_kwargs=True) for layer in layers
    ]
    try:
        with _undisturbed(model), torch.no_grad():
            model(*x) if isinstance(x, tuple) else model(**x) if isinstance(x, Mapping) else model(x)
    finally:
        for handle in handles:
            handle.remove()
    return inputs, outputs


def _keep(name: str, inputs: dict[Key, Tensor], outputs: dict[Key, Tensor]) -> Callable[..., None]:
    calls = 0

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        nonlocal calls
        calls += 1
        given = next((one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)), None)
        # Copies: what is changed in place afterwards is another thing than what was handed on.
        if given is not None:
            inputs[name, calls] = given.detach().clone()
        if isinstance(output, Tensor):
            outputs[name, calls] = output.detach().clone()

    return keep


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and everything back at the end: flags, buffers and random states."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    devices = sorted({one.device.index or 0 for one in model.parameters() if one.device.type == "cuda"})
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=devices):
            for module, _ in modes:
                # Not model.eval(), which a model may have overridden to do more.
                module.training = False
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, before in buffers:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)
