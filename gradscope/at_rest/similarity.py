"""``similarity_of``: which layers of a model at rest tell the samples apart in the same way."""

from __future__ import annotations

from typing import Any

import pandas as pd
from torch import nn

from gradscope.at_rest.handed_on import handed_on
from gradscope.information.panel import ROWS
from gradscope.information.similarity import similarity
from gradscope.probe.layers import LayerFilter
from gradscope.probe.representations import Spatial

ESTIMATOR = "debiased linear CKA"


def similarity_of(
    model: nn.Module,
    x: Any,
    *,
    layers: LayerFilter = None,
    rows: int = ROWS,
    spatial: Spatial = "pool",
    seed: int = 0,
) -> pd.DataFrame:
    """Compare what every two layer calls of a model at rest hand on, by the debiased linear CKA of one sample.

    1 where one is a rotation or a multiple of the other, 0 where they tell the samples apart in unrelated ways; being
    debiased it may be slightly negative. What layer l hands on is its output behind normalization, activation function,
    pooling and sums of skips, as the next layer takes it in; the head's output itself. The model runs in evaluation
    mode, as a copy. No more than `rows` samples are looked at, a random choice: n says how many.

    Args:
        model: The model.
        x: The inputs of the sample; a tensor (samples, ...), or what the model takes (a tuple as ``model(*x)``, a
            mapping as ``model(**x)``), whose first tensor is then the input.
        layers: As for ``watch``.
        rows: How many samples are looked at.
        spatial: ``pool`` takes the mean over positions of images and sequences, ``flatten`` keeps them all; what a
            linear layer takes in flattened is whole either way.
        seed: Of the choice of samples.

    Returns:
        One row per ordered pair: depth, layer, other_depth, other_layer, value, low, high (95 %), estimator, n and
        warning; depth 0 is the input itself. Left out are layer calls whose samples cannot be told from
        positions. NaN where one of the two is the same for every sample.

    Raises:
        InvalidTypeError: The model is no module, or no tensor is given.
        InvalidValueError: The model has no layers, the sample has fewer than 4 rows, or a layer's output is not finite.
        Exception: what the model itself raises.

    Source: Kornblith et al. 2019; Song et al. 2012.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    >>> similarity_of(model, torch.randn(100, 5)).pivot(index="depth", columns="other_depth", values="value").shape
    (3, 3)
    """
    found = {one.name: one for one in handed_on(model, x, layers, spatial, "similarity_of")}
    frame = similarity({name: one.values for name, one in found.items()}, rows=rows, seed=seed)
    sides = {"": [found[name] for name in frame["layer"]], "other_": [found[name] for name in frame["other"]]}
    named = {
        f"{side}{what}": [getattr(one, what) for one in given]
        for side, given in sides.items()
        for what in ("depth", "layer")
    }
    numbers = frame[["value", "low", "high", "n", "warning"]]
    table = pd.concat([pd.DataFrame(named), numbers], axis=1)
    table.insert(table.columns.get_loc("n"), "estimator", ESTIMATOR)  # type: ignore[arg-type]
    return table
