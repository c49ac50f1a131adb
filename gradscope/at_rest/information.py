"""``information_of``: what the layers of a model at rest still tell of the input and of the label."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
from torch import Tensor, nn

from gradscope.at_rest.handed_on import handed_on
from gradscope.information.estimate import joined
from gradscope.information.panel import NOISE_VAR, ROWS, panel
from gradscope.probe.layers import LayerFilter
from gradscope.probe.representations import Spatial

UNUSED = "running statistics of a normalization have seen no batch: evaluation mode is not what training will see"


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
    model, its buffers and all random states stay as they are. Normalization over the batch takes its running
    statistics then, which before any training are mean 0 and variance 1: a warning says so.

    Args:
        model: The model.
        x: The inputs of the sample; a tensor (samples, ...), or what the model takes (a tuple as ``model(*x)``, a
            mapping as ``model(**x)``), whose first tensor is then the input.
        y: Labels, one for each sample; what needs them is left out where None. Numbers with fractions are a continuous
            target, which has no labels to tell apart.
        metrics: ``default``, ``all``, or names; see `gradscope.information.panel`.
        layers: As for ``watch``.
        rows: How many rows pairwise estimators look at.
        noise_var: Variance of the noise that the bounds on information are for, per feature.
        spatial: ``pool`` takes the mean over positions of images and sequences, ``flatten`` keeps them all; what a
            linear layer takes in flattened is whole either way.
        seed: Of the rows and everything else random.
        progress: Show a bar on the error stream.

    Returns:
        One row per layer and metric: depth, layer, metric, value, low, high, unit, bound, estimator, n, parameters and
        warning; depth 0 is the input itself. Layer calls whose samples cannot be told from positions are left out:
        those where samples are counted neither by the first dimension, nor by the second of three.

    Raises:
        InvalidTypeError: The model is no module, or no tensor is given.
        InvalidValueError: The model has no layers, sample and labels differ in length, or a layer's output is not
            finite.
        UnknownNameError: No such metric.
        Exception: what the model itself raises.
    """
    found = handed_on(model, x, layers, spatial, "information_of")
    by_name = {one.name: one for one in found}
    frame = panel(
        {name: one.values for name, one in by_name.items()},
        found[0].values,
        y,
        metrics=metrics,
        rows=rows,
        noise_var=noise_var,
        seed=seed,
        progress=progress,
    )
    frame.insert(0, "depth", [by_name[name].depth for name in frame["layer"]])
    means = frame["layer"].map(lambda name: by_name[name].pooled).astype(bool)
    # It is part of how the number came about: no later layer is a function of a mean over positions.
    frame.loc[means, "parameters"] = [
        ", ".join(filter(None, (one, "spatial=pool"))) for one in frame.loc[means, "parameters"]
    ]
    frame["layer"] = [by_name[name].layer for name in frame["layer"]]
    if _unused_statistics(model):
        inside = frame["depth"] > 0
        frame.loc[inside, "warning"] = [joined(one, UNUSED) for one in frame.loc[inside, "warning"]]
    return frame


def _unused_statistics(model: nn.Module) -> bool:
    """Return whether a normalization would use running statistics, and has none but those it began with."""
    counts = (getattr(one, "num_batches_tracked", None) for one in model.modules())
    return any(isinstance(one, Tensor) and not int(one) for one in counts)
