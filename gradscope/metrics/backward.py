"""What flows back: the output gradient, what a layer passes on, and how it meets other paths."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradscope.metrics.numeric import Ratio
from gradscope.metrics.registry import metric
from gradscope.signals import FP16_SMALLEST, Squares

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
def output_grad_norm(output_grad_squares: Squares) -> NDArray[np.float64]:
    """Euclidean norm of the error signal at the layer's output.

    |dL/dz_l| over all N x units entries; exact (float64 where float32 would under- or overflow). Zero: no error
    signal arrives at all. With a loss that is a mean over the batch it falls as 1/sqrt(N).
    """
    return output_grad_squares.norm


@metric(
    label="Output gradient RMS",
    unit="loss / output",
    group="backward",
    scale="log",
    bounds=(0.0, None),
    degree=1,
    formula="|dL/dz| / sqrt(numel)",
)
def output_grad_rms(output_grad_squares: Squares) -> NDArray[np.float64]:
    """Root mean square of the error signal: comparable between layers of different widths.

    |dL/dz_l| / sqrt(N units). With a loss that is a mean over the batch it falls as 1/N.
    """
    return output_grad_squares.rms


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
def input_grad_norm(input_grad_squares: Squares) -> NDArray[np.float64]:
    """Norm of what this call sends back through its own weights, without skips that join at its input.

    Null where the input needs no gradient (usually the first layer).
    """
    return input_grad_squares.norm


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
def next_input_grad_norm(next_input_grad_squares: Squares) -> NDArray[np.float64]:
    """Norm of the total gradient of a_l, the input of the first layer that follows; null for the last layer."""
    return next_input_grad_squares.norm


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
def input_grad_total_norm(input_grad_total_squares: Squares) -> NDArray[np.float64]:
    """Norm of the total gradient of the layer's input: its own contribution and whatever skips and branches add.

    Equal to input_grad_norm on a chain. Null where the input comes from no watched layer.
    """
    return input_grad_total_squares.norm


@metric(
    label="Share of own contribution at the input",
    unit="fraction",
    group="backward",
    degree=0,
    formula="<g_own, g> / |g|^2",
)
def input_share(input_overlap: NDArray[np.float64], input_grad_total_squares: Squares) -> Ratio:
    """Share of the gradient at the layer's input that came through this layer's own weights.

    <g_own, g> / |g|^2 with g = sum of the contributions of all paths that start at this input; the shares of all
    paths sum to 1. Below 0 or above 1 where paths cancel. Null where g is exactly zero.
    """
    return Ratio(input_overlap, input_grad_total_squares.sum_squares)


@metric(
    label="Gain of the activation function",
    group="backward",
    scale="log",
    bounds=(0.0, None),
    degree=0,
    formula="|dL/du| / |dL/dphi(u)|",
)
def phi_gain(activation_input_grad_squares: Squares, activation_grad_squares: Squares) -> Ratio:
    """Factor by which the activation function alone changes the norm of the error signal on its way back.

    |phi'(u) dL/dphi(u)| / |dL/dphi(u)|: at most the greatest slope, and close to the RMS slope where slopes and
    gradients do not depend on one another. Null where there is no activation function, where it was not recognised,
    and where the gradient of phi(u) is exactly zero.
    """
    return Ratio(activation_input_grad_squares.norm, activation_grad_squares.norm)


@metric(
    label="Gain of the normalization",
    group="backward",
    scale="log",
    bounds=(0.0, None),
    degree=0,
    formula="|what it sends back| / |dL/dnorm(z)|",
)
def norm_gain(norm_input_grad_squares: Squares, norm_grad_squares: Squares) -> Ratio:
    """Factor by which the normalization before the activation function changes the norm of the error signal.

    Null where there is none, and where the gradient of what it returned is exactly zero.
    """
    return Ratio(norm_input_grad_squares.norm, norm_grad_squares.norm)


@metric(
    label="Gain where paths join on the way",
    group="backward",
    scale="log",
    bounds=(0.0, None),
    degree=0,
    formula="|g| / |g_own|",
)
def join_gain(join_grad_squares: Squares, join_own_grad_squares: Squares) -> Ratio:
    """Factor that other paths add where they leave between the layer's output and the next layer's input.

    |g| / |g_own|, with g the gradient of the tensor that they share and g_own what of it came through the next layer:
    what a pre-activation block adds to its skip is both the skip of the next block and, normalized, the input of its
    first layer. Null where no other path leaves there (what leaves at the next layer's input is ``input_share``).
    """
    return Ratio(join_grad_squares.norm, join_own_grad_squares.norm)


@metric(
    label="Share of the next layer where paths join on the way",
    unit="fraction",
    group="backward",
    degree=0,
    formula="<g_own, g> / |g|^2",
)
def join_share(join_overlap: NDArray[np.float64], join_grad_squares: Squares) -> Ratio:
    """Share of the next layer in the gradient of a tensor that other paths use too, between output and next input.

    <g_own, g> / |g|^2 as in ``input_share``, of the tensor of ``join_gain``; the rest is that of the other paths.
    """
    return Ratio(join_overlap, join_grad_squares.sum_squares)


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
def output_grad_zero_fraction(output_grad_zeros: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of entries of the error signal that are exactly zero (half of them after a healthy ReLU)."""
    return output_grad_zeros


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
def fp16_underflow_fraction(output_grad_small: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of entries of the error signal that are not zero but would be in half precision.

    Of the gradient as back-propagation computes it, with its loss scale where there is one: that is what half precision
    has to hold.
    """
    return output_grad_small
