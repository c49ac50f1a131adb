"""How large gradients are in absolute terms: the loss gradient at the last layer, without a pass through the others."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gradscope.at_rest.copies import Loss, default_loss, loss_of, single_loss
from gradscope.at_rest.predictions.likes import covariance
from gradscope.at_rest.predictions.start import likeness, samples_of
from gradscope.at_rest.readings.model import Reading

DRAWS = 16


@dataclass(frozen=True)
class Anchor:
    """Gradients of the loss at one layer call.

    Attributes:
        output_grad: |dL/dz|; NaN where it cannot be known.
        weight_grad: |dL/dW|.
        alike: <d_i, d_j> / |d|^2 of the gradients of different samples, on average.
        alike_square: Its mean square, of gradients of one length each.
        likes: Covariance over pairs of samples of <d_i, d_j> / |d|^2 and how alike the samples are; see ``covariance``.
        lean: <d_i, z_j> of different samples: how far gradients depend on the outputs that the weights make.
        status: Why they cannot be known; empty where they are.
        drawn: Whether targets are drawn.
    """

    output_grad: float
    weight_grad: float
    alike: float
    alike_square: float
    likes: float = 0.0
    lean: float = 0.0
    status: str = ""
    drawn: bool = False


NOTHING = Anchor(math.nan, math.nan, math.nan, math.nan)


def find_anchor(reading: Reading, place: int, y: Any, loss_fn: Loss | None) -> Anchor:
    """Return the gradients of the loss at a layer call from which only the output follows.

    With targets, those of the loss. Without, the root mean square over draws of targets: of cross-entropy for labels
    drawn uniformly where there are two outputs or more, of the mean squared error for targets of mean 0 and variance 1
    where there is one.

    Args:
        reading: The model after its forward pass.
        place: Place of the layer call.
        y: Targets, None for drawn ones.
        loss_fn: The loss, None for cross-entropy of integer targets, else mean squared error.

    Raises:
        InvalidTypeError: The loss of given targets is no tensor.
        InvalidValueError: It is no single number, or output and targets do not go together.
    """
    if y is None and not isinstance(reading.output, Tensor):
        status = f"the model returns {type(reading.output).__name__}: give y and loss_fn"
        return replace(NOTHING, status=status)
    losses = _drawn(reading.output) if y is None else iter([loss_of(loss_fn or default_loss, reading.output, y)])
    found = [_gradients(single_loss(loss), reading, place) for loss in losses]
    square, of_weight, pairs, *rest = torch.tensor(found, dtype=torch.float64).mean(0).tolist()
    others, likes, lean = rest
    alike = pairs / square if square > 0 else math.nan
    return Anchor(math.sqrt(square), math.sqrt(of_weight), alike, others, likes, lean, drawn=y is None)


def _gradients(loss: Tensor, reading: Reading, place: int) -> tuple[float, ...]:
    """Return |dL/dz|^2, |dL/dW|^2, samples times the mean product of two, and what else an anchor holds."""
    one = reading.layers[place]
    weight = one.layer.module.weight
    assert isinstance(weight, Tensor)
    wanted = [one.output, *([weight] if weight.requires_grad else [])]
    grads = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
    squares = [0.0 if grad is None else float(grad.double().square().sum()) for grad in grads]
    of_weight = squares[1] if len(squares) > 1 else math.nan
    rows = samples_of(one, one.output if grads[0] is None else grads[0])
    if grads[0] is None or len(rows) < 2:
        return squares[0], of_weight, 0.0, 1.0, 0.0, 0.0
    rows = rows.reshape(len(rows), -1)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = (rows / np.where(lengths > 0, lengths, 1.0)) @ (rows / np.where(lengths > 0, lengths, 1.0)).T
    others = (float((cosines**2).sum()) - float((np.diag(cosines) ** 2).sum())) / (len(rows) * (len(rows) - 1))
    outputs = samples_of(one, one.output).reshape(len(rows), -1)
    lean = float(rows.sum(0) @ outputs.sum(0) - np.sum(rows * outputs)) / (len(rows) * (len(rows) - 1))
    return squares[0], of_weight, likeness(rows) * squares[0], others, covariance(reading, rows), lean


def _drawn(output: Tensor) -> Iterator[Tensor]:
    """Losses of targets that are drawn; logits have their classes last up to three dimensions, else second."""
    draw = torch.Generator().manual_seed(0)
    logits = output.reshape(-1, output.shape[-1]) if output.dim() <= 3 else output
    classes = logits.shape[1] if output.dim() > 1 else 1
    shape = (logits.shape[0], *logits.shape[2:])
    for _ in range(DRAWS):
        if classes < 2:
            yield F.mse_loss(output, torch.randn(output.shape, generator=draw).to(output))
        else:
            labels = torch.randint(0, classes, shape, generator=draw)
            yield F.cross_entropy(logits, labels.to(output.device))
