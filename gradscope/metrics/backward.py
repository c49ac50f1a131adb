"""What flows back: the output gradient, what a layer passes on, and how it meets other paths."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gradscope.metrics.numeric import Ratio, share_below, share_of_zeros
from gradscope.metrics.registry import metric
from gradscope.signals import Moments

FP16_SMALLEST = 2.0**-24
SAMPLE = {"sample": "odd stride, at least 16384 entries"}


@metric(
    label="Output gradient norm",
    unit="loss / output",
    group="backward",
    scale="log",
    bounds=(0.0, None),
    degree=1,
    combine="rss",
    formula="|dL/dz|",
)
def output_grad_norm(output_grad_moments: Moments) -> NDArray[np.float64]:
    """Euclidean norm of the error signal at the layer's output.

    |dL/dz_l| over all N x units entries; exact (float64 where float32 would under- or overflow). Zero: no error
    signal arrives at all. With a loss that is a mean over the batch it falls as 1/sqrt(N).
    """
    return output_grad_moments.norm


@metric(
    label="Output gradient RMS",
    unit="loss / output",
    group="backward",
    scale="log",
    bounds=(0.0, None),
    degree=1,
    formula="|dL/dz| / sqrt(numel)",
)
def output_grad_rms(output_grad_moments: Moments) -> NDArray[np.float64]:
    """Root mean square of the error signal: comparable between layers of different widths.

    |dL/dz_l| / sqrt(N units). With a loss that is a mean over the batch it falls as 1/N.
    """
    return output_grad_moments.rms


@metric(
    label="Input gradient norm, own contribution",
    unit="loss / input",
    group="backward",
    scale="log",
    bounds=(0.0, None),
    degree=1,
    combine="rss",
    formula="|W^T dL/dz|",
)
def input_grad_norm(input_grad_moments: Moments) -> NDArray[np.float64]:
    """Norm of what this call sends back through its own weights, without skips that join at its input.

    Null where the input needs no gradient (usually the first layer).
    """
    return input_grad_moments.norm


@metric(
    label="Gradient norm at the next layer's input",
    unit="loss / input",
    group="backward",
    scale="log",
    bounds=(0.0, None),
    degree=1,
    combine="rss",
    formula="|dL/da|",
)
def next_input_grad_norm(next_input_grad_moments: Moments) -> NDArray[np.float64]:
    """Norm of the total gradient of a_l, the input of the first layer that follows; null for the last layer."""
    return next_input_grad_moments.norm


@metric(
    label="Gradient norm at the input, all paths",
    unit="loss / input",
    group="backward",
    scale="log",
    bounds=(0.0, None),
    degree=1,
    combine="rss",
    formula="|dL/da_{l-1}|",
)
def input_grad_total_norm(input_grad_total_moments: Moments) -> NDArray[np.float64]:
    """Norm of the total gradient of the layer's input: its own contribution and whatever skips and branches add.

    Equal to input_grad_norm on a chain. Null where the input comes from no watched layer.
    """
    return input_grad_total_moments.norm


@metric(
    label="Share of own contribution at the input",
    unit="fraction",
    group="backward",
    degree=0,
    formula="<g_own, g> / |g|^2",
)
def input_share(input_grad: Tensor, input_grad_total: Tensor) -> Ratio:
    """Share of the gradient at the layer's input that came through this layer's own weights.

    <g_own, g> / |g|^2 with g = sum of the contributions of all paths that start at this input; the shares of all
    paths sum to 1. Below 0 or above 1 where paths cancel. Null where g is exactly zero.
    """
    if input_grad.shape != input_grad_total.shape:
        raise ValueError(f"shapes differ: {tuple(input_grad.shape)} and {tuple(input_grad_total.shape)}")
    if input_grad is input_grad_total:
        # The only path: all of it, unless there is nothing.
        largest = input_grad.abs().amax() if input_grad.numel() else 0.0
        return Ratio(largest, largest)
    own, total = input_grad.double(), input_grad_total.double()
    return Ratio((own * total).sum(), (total * total).sum())


@metric(
    label="Zero fraction of the output gradient",
    unit="fraction",
    group="backward",
    bounds=(0.0, 1.0),
    degree=0,
    dtype="float32",
    parameters=SAMPLE,
    formula="share of dL/dz == 0",
)
def output_grad_zero_fraction(output_grad_sample: Tensor) -> Tensor | None:
    """Share of entries of the error signal that are exactly zero (half of them after a healthy ReLU)."""
    return share_of_zeros(output_grad_sample)


@metric(
    label="Output gradient below fp16",
    unit="fraction",
    group="backward",
    bounds=(0.0, 1.0),
    dtype="float32",
    parameters={**SAMPLE, "threshold": FP16_SMALLEST / 2},
    formula="share of 0 < |dL/dz| <= 2^-25",
    source="IEEE 754 binary16: smallest subnormal 2^-24, ties to even",
)
def fp16_underflow_fraction(output_grad_sample: Tensor) -> Tensor | None:
    """Share of entries of the error signal that are not zero but would be in half precision without a loss scale."""
    return share_below(output_grad_sample, FP16_SMALLEST / 2)
