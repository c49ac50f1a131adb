"""What the layer-wise recursion takes and gives: a network as stages and skips, and what theory says of each layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gradscope.theory.functions import Activation

Norm = Literal["none", "batch", "layer"]
NORMS: tuple[Norm, ...] = ("none", "batch", "layer")
POOLS = ("mean", "max")


@dataclass(frozen=True)
class Convolution:
    """Geometry of a convolution, one entry per spatial dimension.

    Attributes:
        size: Height, width, ... of its input.
        kernel: Of the kernel.
        padding: Zeros, or wrapped-round entries, that are put on each side.
        stride: Step between outputs.
        dilation: Step between taps.
        mode: What the padding holds, as PyTorch names it: ``zeros`` or ``circular``.
        delta: Whether only the centre tap is not zero (delta-orthogonal weights): nothing leaks, whatever the padding,
            and weight_var counts fan_in = channels.
    """

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    padding: tuple[int, ...]
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    mode: str = "zeros"
    delta: bool = False


@dataclass(frozen=True)
class Pool:
    """Pooling over windows that do not overlap.

    Attributes:
        kind: ``mean`` or ``max``.
        window: Height, width, ... of a window.
    """

    kind: Literal["mean", "max"]
    window: tuple[int, ...]


@dataclass(frozen=True)
class Stage:
    """One layer and what follows it: z = W a + b, u = norm(z), a' = pool(phi(u)).

    Attributes:
        weight_var: sigma_w^2 = fan_in times the mean square of the weights, with fan_in = channels times taps for a
            convolution.
        bias_var: sigma_b^2, the mean square of the biases.
        activation: Name of phi, a function on arrays, or an `Activation`.
        norm: ``none``, ``batch`` (training mode, over batch and positions) or ``layer`` (over units), before phi.
        pool: Pooling after phi.
        fan_in: Inputs one output sums over; 0 is infinitely many.
        fan_out: Units, or channels, of the output: the width N of the finite-width band; 0 is infinitely many.
        orthogonal: Whether rows (or columns) of W are orthogonal.
        convolution: Geometry of a convolution; None is a dense layer.
        norm_eps: What the normalization adds to the variance.
        dropout: Fraction of a' that is dropped while training.
        name: What the layer is called.
        why_not: Why theory cannot follow the signal through this layer; empty where it can.
        why_not_behind: Why it cannot follow what comes behind the output z; norm, activation and pool then count not.
    """

    weight_var: float
    bias_var: float = 0.0
    activation: str | Activation = "identity"
    norm: Norm = "none"
    pool: Pool | None = None
    fan_in: int = 0
    fan_out: int = 0
    orthogonal: bool = False
    convolution: Convolution | None = None
    norm_eps: float = 1e-5
    dropout: float = 0.0
    name: str = ""
    why_not: str = ""
    why_not_behind: str = ""


@dataclass(frozen=True)
class Residual:
    """A skip: y = shortcut(x) + scale * branch(phi0(norm0(x))), then phi1(norm1(y)), pooled.

    Attributes:
        branch: The stages that the skip goes around.
        scale: alpha, the factor on the branch.
        shortcut: Stages on the skip itself, such as a projection; empty for the identity.
        before_norm: Normalization of x in front of the branch (pre-norm blocks), not on the skip.
        before_activation: phi0, in front of the branch, not on the skip.
        norm: Normalization of the sum.
        activation: Activation of the sum.
        pool: Pooling after it.
        norm_eps: What the normalizations add to the variance.
    """

    branch: tuple[Stage | Residual, ...]
    scale: float = 1.0
    shortcut: tuple[Stage | Residual, ...] = ()
    before_norm: Norm = "none"
    before_activation: str | Activation = "identity"
    norm: Norm = "none"
    activation: str | Activation = "identity"
    pool: Pool | None = None
    norm_eps: float = 1e-5


@dataclass(frozen=True)
class Start:
    """What is known where the recursion begins: of the output z_1 of the first stage, or of x where a skip is first.

    Attributes:
        q: Mean square, over samples and units; a number, or an array over positions.
        c: Correlation of two samples, <z z'> / q, averaged over pairs of different samples and not centred; NaN where
            it does not matter (it does for batch norm, and for the spread between samples).
        neighbours: Correlation <z_p z_p'> / q, for every pooling to come, of positions in one of its windows, but not
            in one of those that an earlier pooling joins; where missing, what follows a pooling is not predicted.
        elsewhere: Correlation <z_p z_p'> / q of two samples at any two positions, which is what their channels have in
            common as a mean; a number, or an array over the positions p; NaN where it does not matter (it does for
            batch norm behind convolutions).
        unequal: Mean over units of 1 / variance, times the mean variance: what a batch norm behind the first stage,
            which divides each unit by its own, adds to the gradient.
        samples: Samples of the batch whose gradients are taken together; more of them scatter less.
        rank: (tr K)^2 / tr K^2 of the products K between the samples' gradients at the last stage: 1 where they are
            all parallel, `samples` where they are orthogonal; about one less than there are classes for a classifier.
    """

    q: float | NDArray[np.float64] = 1.0
    c: float = float("nan")
    neighbours: tuple[float, ...] = ()
    elsewhere: float | NDArray[np.float64] = float("nan")
    unequal: float = 1.0
    samples: int = 1
    rank: float = 1.0


@dataclass(frozen=True)
class Level:
    """What theory says of one stage. Ratios of gradients are to the last stage of the network, for infinite width.

    Attributes:
        name: Of the stage.
        q: Mean square of the output z; its root is output_rms.
        c: Correlation of two samples at z, not centred; NaN where the start did not say.
        spread: Standard deviation over samples relative to the rms: sqrt(1 - c).
        slope: E phi'(u)^2 of the stage's own activation; its root is slope_rms.
        activation_mean: E phi(u).
        activation_square: E phi(u)^2.
        chi: Factor of the mean square of the gradient's norm from the next stage to this: |dL/dz_l|^2 / |dL/dz_l+1|^2;
            NaN for the last.
        log_gradient: ln of |dL/dz_l| / |dL/dz_L|, root mean square over initializations; 0 for the last stage.
        log_weight_gradient: ln of |dL/dW_l| / |dL/dW_L|, for a batch of like samples; NaN for the first stage, whose
            input is not known.
        log_var: Variance of ln(|dL/dz_l| / |dL/dz_L|) between initializations at the given widths: the sum of
            kappa / 4N (less for a batch of different samples) and, on a chain of dense layers, what noise of q adds; 0
            for infinite width. A lower bound where batch norm or skips take part.
        typical: log_gradient less the sum of kappa / 4N: the mean of the logarithm, which a single network shows.
        low: Lower end of the 95 % band of a single network: typical - 1.96 sqrt(log_var).
        high: Its upper end.
        sensitive: Whether noise of the width in q grows from layer to layer, so that the prediction holds only with a
            measured q (GELU and SiLU near sigma_w^2 = 2).
        status: Empty; or why values are NaN; or, after ``approximate:``, what was assumed.
    """

    name: str
    q: float
    c: float
    spread: float
    slope: float
    activation_mean: float
    activation_square: float
    chi: float
    log_gradient: float
    log_weight_gradient: float
    log_var: float
    typical: float
    low: float
    high: float
    sensitive: bool = False
    status: str = ""
