"""``predict``: what theory says the first step of a training will show."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from gradscope.at_rest.copies import Loss
from gradscope.at_rest.given import check_batch
from gradscope.at_rest.predictions.anchor import NOTHING, find_anchor
from gradscope.at_rest.predictions.coherence import apart, coherence
from gradscope.at_rest.predictions.likes import responses
from gradscope.at_rest.predictions.rows import COLUMNS, Theory, rows
from gradscope.at_rest.predictions.scatter import Scattering, widened
from gradscope.at_rest.predictions.start import measure_start, samples_of, unevenness
from gradscope.at_rest.reading_copy import copy_input, undisturbed
from gradscope.at_rest.readings.model import Reading, read
from gradscope.errors import InvalidValueError
from gradscope.theory import Level, Start, propagate


def predict(model: nn.Module, x: Any, y: Any = None, loss_fn: Loss | None = None) -> pd.DataFrame:
    """Predict what the first step of a training will show, from the model's own weights, without a step.

    A copy goes forward once, in training mode. The variances of weights and biases, activation functions,
    normalizations, poolings, dropout and skips are read off its layers and its autograd graph; mean-field theory does
    the rest, beginning with the mean square and the correlation of samples that the first layer's output has on ``x``.
    The model, its gradients, buffers, hooks and all random states stay as they are.

    Args:
        model: The model.
        x: A batch. The model is called as ``model(x)``, as ``model(*x)`` for a tuple and ``model(**x)`` for a mapping.
        y: Targets: gradients are those of the loss, whose gradient at the last layer is taken from the forward pass.
            Without, gradients are root mean squares over targets that are drawn: labels of a uniform law and
            cross-entropy for two outputs or more; for one output targets of mean 0 and variance 1 and mean squared
            error.
        loss_fn: ``loss_fn(model_output, y)``, a tensor with one number; None means cross-entropy for integer targets,
            else mean squared error.

    Returns:
        One row for each layer call and metric: step (0), depth, layer, metric, value, low, high, source (``theory``)
        and status. Metrics, units and depths are those of a run: output_rms, sample_spread, activation_mean,
        activation_std, slope_rms, output_grad_norm, output_grad_rms, weight_grad_norm, weight_grad_rms. ``low`` and
        ``high`` are the 95 % band of single networks of this width. Status is empty, or says why theory does not apply
        and the value is NaN, or, after ``approximate:``, what was assumed.

    Raises:
        InvalidTypeError: The model is no module, x or y is a numpy array, or the loss is no tensor.
        InvalidValueError: The model has no layers or cannot be copied, x is empty, its output and y do not go together,
            the loss is no single number, or there is a ``loss_fn`` without ``y``.
        Exception: What the model itself raises.

    Sources: Poole et al. 2016, Schoenholz et al. 2017; Xiao et al. 2018 (convolutions); Yang et al. 2019 (batch norm);
    Yang & Schoenholz 2017 (skips); Hanin & Nica 2020 (finite width).

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 10))
    >>> frame = predict(model, torch.randn(32, 64))
    >>> frame.query("metric == 'output_rms'")[["depth", "layer"]].values.tolist()
    [[1, '0'], [2, '2']]
    """
    if y is None and loss_fn is not None:
        raise InvalidValueError("loss_fn= needs y=: without targets there is no loss")
    check_batch(x, y)
    with undisturbed():
        reading = read(model, x)
        start = measure_start(reading) if reading.network else Start()
        reading, levels = _follow(reading, start)
        named = [level.name for level in levels if level.name]
        anchor = find_anchor(reading, int(named[-1]), copy_input(y), loss_fn) if named else NOTHING
        samples = len(samples_of(reading.layers[0], reading.layers[0].output)) if reading.layers else 1
        together = coherence(reading.network, levels, start, anchor.alike, samples) if named else {}
        batch = Scattering(reading.network, levels, samples, together, anchor)
        single = Scattering(reading.network, levels, 1, together, anchor, unevenness(reading))
        scatters = widened(batch.found(), single.found())
        follow = responses(reading.network, levels, start) if named and anchor.likes else {}
        theory = Theory(reading, levels, anchor, together, scatters, apart(reading.network, levels), follow)
        return pd.DataFrame(rows(theory), columns=list(COLUMNS))


def _follow(reading: Reading, start: Start) -> tuple[Reading, tuple[Level, ...]]:
    """Return what theory says; where shapes turn up that it has no place for, nothing of any layer, and why."""
    if not reading.network:
        return reading, ()
    why = "where the network begins, a value is NaN or infinite"
    if np.isfinite(start.q).all():
        try:
            return reading, propagate(reading.network, start)
        except InvalidValueError as error:
            why = f"theory cannot follow the shapes of this network: {error}"
    return replace(reading, network=(), lost=dict.fromkeys(range(len(reading.layers)), why)), ()
