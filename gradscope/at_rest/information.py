"""``information_of``: what the layers of a model at rest still tell of the input and of the label."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from gradscope.at_rest.preflight_step import first_step
from gradscope.at_rest.reading_copy import copy_input, copy_model, undisturbed
from gradscope.errors import InvalidTypeError, InvalidValueError
from gradscope.information.panel import NOISE_VAR, ROWS, panel
from gradscope.probe.layers import LayerFilter, find_layers
from gradscope.probe.representations import Spatial, check_spatial, collect, features
from gradscope.spec import LayerSpec

INPUT = "input"


def information_of(
    model: nn.Module,
    x: Any,
    y: Any = None,
    *,
    metrics: str | Iterable[str] = "default",
    layers: LayerFilter = None,
    rows: int = ROWS,
    noise_var: float = NOISE_VAR,
    spatial: Spatial = "pool",
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Estimate what each layer of a model at rest tells of the input and the label, on one sample.

    What layer l hands on is looked at: its output behind normalization, activation function, pooling and sums of
    skips, as the next layer takes it in; the head's output itself. The model runs in evaluation mode, as a copy: the
    model, its buffers and all random states stay as they are.

    Args:
        model: The model.
        x: The inputs of the sample; a tensor (samples, ...), or what the model takes (a tuple as ``model(*x)``, a
            mapping as ``model(**x)``), whose first tensor is then the input.
        y: Labels, one for each sample; what needs them is left out where None.
        metrics: ``default``, ``all``, or names; see `gradscope.information.panel`.
        layers: As for ``watch``.
        rows: How many rows pairwise estimators look at.
        noise_var: Variance of the noise that the bounds on information are for, per feature.
        spatial: ``pool`` takes the mean over positions of images and sequences, ``flatten`` keeps them all.
        seed: Of the rows and everything else random.
        progress: Show a bar on the error stream.

    Returns:
        One row per layer and metric: depth, layer, metric, value, low, high, unit, bound, estimator, n, parameters and
        warning; depth 0 is the input itself.

    Raises:
        InvalidTypeError: The model is no module, or no tensor is given.
        InvalidValueError: The model has no layers, sample and labels differ in length, or a layer's output is not
            finite.
        UnknownNameError: No such metric.
        Exception: what the model itself raises.
    """
    mode = check_spatial(spatial)
    first = _first(x)
    with undisturbed():
        twin = copy_model(model, "information_of", train=False)
        specs = _specs(twin, x, layers)
        found = collect(twin, find_layers(twin, layers), specs, copy_input(x), mode)
    inputs, labels = features(first, "flatten"), None if y is None else torch.as_tensor(y).detach().cpu().numpy()
    by_id = {str(one.id): one for one in specs if one.id in found}
    frame = panel(
        {INPUT: inputs} | {name: found[one.id] for name, one in by_id.items()},
        inputs,
        labels,
        metrics=metrics,
        rows=rows,
        noise_var=noise_var,
        seed=seed,
        progress=progress,
    )
    frame.insert(0, "depth", [0 if name == INPUT else by_id[name].depth for name in frame["layer"]])
    frame["layer"] = [name if name == INPUT else by_id[name].layer for name in frame["layer"]]
    return frame


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


def _specs(twin: nn.Module, x: Any, layers: LayerFilter) -> tuple[LayerSpec, ...]:
    """Return the layer calls with their parents, from one watched pass of the copy."""
    for parameter in twin.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    # A counted pass is one in training mode; evaluation mode of every module inside it is what shall be seen.
    twin.training = True
    with first_step(twin, x, None, _any_loss, name="information_of", layers=layers) as run:
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
