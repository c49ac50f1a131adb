"""What the layers of a model make of a fixed sample: one forward pass in evaluation mode that leaves no trace."""

from __future__ import annotations

import random
from collections import OrderedDict, deque
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

    Everything is as before afterwards: training flags, buffers, attributes of modules, random states, gradients. Of
    outputs with positions (convolutions, sequences) `pool` takes the mean over them, `flatten` keeps them all. What a
    linear layer takes in flattened has no positions and stays whole: its mean is not what the network reads.

    Args:
        model: The model, without wrappers of torch.compile and distributed training.
        layers: Its layers.
        specs: The layer calls, with their parents.
        x: The sample; a tuple is given as ``model(*x)``, a mapping as ``model(**x)``.
        spatial: What to do with positions.

    Returns:
        Arrays of shape (samples, features) in float32. Layer calls that the pass does not reach are left out, and those
        of which no dimension counts the samples: the first, or the second of a sequence (steps, samples, features).

    Raises:
        Exception: what the model itself raises.
    """
    inputs, outputs = _pass(model, layers, x)
    parts = x.values() if isinstance(x, Mapping) else x if isinstance(x, tuple | list) else [x]
    count = next((len(one) for one in parts if isinstance(one, Tensor) and one.ndim), 0)
    first = _first_child(specs)
    convolutions = {one.name for one in layers if isinstance(one.module, nn.modules.conv._ConvNd)}
    found: dict[int, NDArray[np.float32]] = {}
    for one in specs:
        child = first.get(one.id)
        seen = one if child is None else child
        tensor = _by_sample((outputs if child is None else inputs).get((seen.layer, seen.call)), count)
        if tensor is not None:
            found[one.id] = features(tensor, spatial, channels_first=seen.layer in convolutions)
    return found


def _by_sample(tensor: Tensor | None, count: int) -> Tensor | None:
    """Return a tensor with its samples first; None where they cannot be told from positions."""
    if tensor is None or not tensor.ndim or len(tensor) == count:
        return tensor if tensor is not None and tensor.ndim else None
    return tensor.transpose(0, 1) if tensor.ndim == 3 and tensor.shape[1] == count else None


def features(tensor: Tensor, spatial: Spatial = "pool", channels_first: bool = False) -> NDArray[np.float32]:
    """Return a tensor as (samples, features).

    Args:
        tensor: Of shape (samples, ...).
        spatial: What to do with positions.
        channels_first: Whether it goes through a convolution, whose channels come before the positions; of what a
            linear layer works on the features are the last dimension.

    Raises:
        InvalidTypeError: It is no tensor of numbers with samples.
    """
    if not isinstance(tensor, Tensor) or tensor.ndim < 1 or tensor.is_complex():
        raise InvalidTypeError(f"a sample is a tensor (samples, ...) of real numbers, not {type(tensor).__name__}")
    values = tensor.detach().to("cpu", torch.float32)
    if values.ndim > 2 and spatial == "pool":
        values = values.flatten(2).mean(2) if channels_first else values.flatten(1, -2).mean(1)
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
            given = _copied(x)
            model(*given) if isinstance(x, tuple) else model(**given) if isinstance(x, Mapping) else model(given)
    finally:
        for handle in handles:
            handle.remove()
    return inputs, outputs


def _copied(x: Any) -> Any:
    """Copy the tensors of a sample: a model may change its input in place."""
    if isinstance(x, Tensor):
        return x.clone()
    if isinstance(x, Mapping):
        return {name: _copied(one) for name, one in x.items()}
    return type(x)(_copied(one) for one in x) if type(x) in (tuple, list) else x


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
    """Put a model into evaluation mode, and everything back at the end: flags, buffers, attributes, random states."""
    put_back = [_keeper(vars(module), {}) for module in model.modules()]
    devices = sorted({one.device.index or 0 for one in model.parameters() if one.device.type == "cuda"})
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=devices):
            for module in model.modules():
                # Not model.eval(), which a model may have overridden to do more.
                module.training = False
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        with torch.no_grad():
            for one in put_back:
                one()


def _keeper(value: Any, known: dict[int, Callable[[], None]]) -> Callable[[], None]:
    """Return what puts tensors and builtin containers back as they are now, all the way down.

    Parameters are taken to stay as they are, and objects of other kinds to have no state: what a module counts or
    averages in an attribute is put back, what it does to an object of its own making is not.
    """
    if id(value) in known:
        return known[id(value)]
    known[id(value)] = _nothing
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        known[id(value)] = _tensor_keeper(value)
    elif type(value) in (dict, OrderedDict, list, set, deque):
        held = value.copy()
        inner = [_keeper(one, known) for one in (held.values() if isinstance(held, dict) else held)]

        def put_back() -> None:
            _put_back(value, held)
            for one in inner:
                one()

        known[id(value)] = put_back
    return known[id(value)]


def _nothing() -> None:
    pass


def _put_back(now: Any, before: Any) -> None:
    """Give a container the objects it held before, in their order; what did not change is not touched."""
    if isinstance(now, dict) and list(now) == list(before):
        for name, one in before.items():
            if now[name] is not one:
                now[name] = one
    elif (
        isinstance(now, set)
        or len(now) != len(before)
        or any(one is not two for one, two in zip(now, before, strict=True))
    ):
        now.clear()
        (now.extend if isinstance(now, list | deque) else now.update)(before)


def _tensor_keeper(tensor: Tensor) -> Callable[[], None]:
    before, version = tensor.detach().clone(), None if tensor.is_inference() else tensor._version

    def put_back() -> None:
        # Writing to a tensor that did not change would spoil a graph that still needs it.
        if version is None or tensor._version != version:
            tensor.detach().copy_(before)

    return put_back
