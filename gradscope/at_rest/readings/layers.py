"""What theory wants to know of one layer: variances, fans, geometry, and whether its weights look like random draws."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from gradscope.probe.layers import Layer
from gradscope.theory.stages import Convolution, Stage

# Standard deviations of the Tracy-Widom law beyond which a singular value is no accident: a chance below 1e-9.
OUTLIER = 10.0
_STRAIGHT = 1e-3


@dataclass(frozen=True, eq=False)
class LayerRead:
    """One call of a layer in the forward pass of the copy.

    Attributes:
        layer: The layer.
        call: 1 for its first call, 2 for the second.
        depth: Place in order of execution, from 1.
        stage: What theory takes, without what follows the layer.
        note: What speaks against theory, or what is assumed; empty where nothing does.
        size: Positions of its output, per spatial dimension; empty for a linear layer.
        entry: What entered it.
        output: What it returned.
    """

    layer: Layer
    call: int
    depth: int
    stage: Stage
    note: str
    size: tuple[int, ...]
    entry: Tensor
    output: Tensor


def read_layer(layer: Layer, call: int, depth: int, entry: Tensor, output: Tensor) -> LayerRead:
    """Describe a call of a layer.

    Args:
        layer: The layer.
        call: Which of its calls.
        depth: Place in order of execution, from 1.
        entry: What entered it.
        output: What it returned.
    """
    module = layer.module
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    values = weight.detach().double()
    fan_in = layer.fans[0]
    geometry, why_not, note = None, "", ""
    size: tuple[int, ...] = ()
    if isinstance(module, _ConvNd):
        size = tuple(int(one) for one in output.shape[-len(module.kernel_size) :])
        geometry, why_not, note = _geometry(module, entry, values)
    delta = geometry is not None and geometry.delta
    taps = math.prod(module.kernel_size) if isinstance(module, _ConvNd) and delta else 1
    matrix = values.flatten(1) if values.dim() > 1 else values[None]
    stage = Stage(
        # With one tap that is not zero, the sum runs over channels.
        weight_var=float(values.square().mean()) * fan_in,
        bias_var=float(bias.detach().double().square().mean()) if isinstance(bias, Tensor) else 0.0,
        fan_in=fan_in // taps,
        fan_out=int(output.shape[layer.unit_dim]),
        orthogonal=is_orthogonal(matrix if taps == 1 else values.flatten(2).sum(2)),
        convolution=geometry,
        name=str(depth - 1),
        why_not=why_not,
    )
    odd = "" if stage.orthogonal or delta else outlier(matrix)
    return LayerRead(layer, call, depth, stage, odd or note, size, entry, output)


def is_orthogonal(matrix: Tensor) -> bool:
    """Tell whether rows, or columns if there are more rows, are orthogonal and of one length.

    Such a matrix, applied on its longer side, stretches all vectors alike; a random one differs by 1 / sqrt(width).

    >>> is_orthogonal(torch.eye(3) * 2), is_orthogonal(torch.ones(3, 3))
    (True, False)
    """
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    if small.shape[0] < 2:
        return False
    # Fixed vectors, since random states are not to be touched: waves of several lengths, and two single rows.
    place = torch.arange(small.shape[0], dtype=small.dtype, device=small.device)
    vectors = torch.stack([torch.cos(math.sqrt(2) * (k + 1) * place + k) for k in range(6)])
    vectors = torch.cat([vectors, torch.eye(len(place), dtype=small.dtype, device=small.device)[:2]])
    stretch = (vectors @ small).square().sum(1) / vectors.square().sum(1)
    mean = stretch.mean()
    return bool(mean > 0) and bool(((stretch / mean - 1).abs() < _STRAIGHT).all())


def outlier(matrix: Tensor) -> str:
    """Say what tells weights from independent draws of mean zero; empty where nothing does.

    The largest singular value of a random n x p matrix with variance v is sqrt(v) (sqrt(n) + sqrt(p)), scattered by
    the Tracy-Widom law with the scale of Johnstone (2001), whatever the law of the entries. A mean that is not zero, or
    a direction that training has put in, sticks out of that bulk once it matters (Baik, Ben Arous and Peche 2005).
    """
    n, p = matrix.shape
    variance = float(matrix.square().mean())
    if min(n, p) < 2 or not 0.0 < variance < math.inf:
        return ""
    largest = _largest(matrix) ** 2 / variance
    edge = (math.sqrt(n - 1) + math.sqrt(p)) ** 2
    scale = (math.sqrt(n - 1) + math.sqrt(p)) * (1 / math.sqrt(n - 1) + 1 / math.sqrt(p)) ** (1 / 3)
    if largest <= edge + OUTLIER * scale:
        return ""
    mean = float(matrix.mean()) / math.sqrt(variance / matrix.numel())
    about = (
        f"their mean is {mean:.0f} standard errors from zero" if abs(mean) > OUTLIER else "a few directions stand out"
    )
    return (
        f"approximate: theory takes weights as independent draws of mean zero, and these look trained: {about} "
        f"(largest singular value {math.sqrt(largest / edge):.2g} times that of such draws)"
    )


def _largest(matrix: Tensor, steps: int = 24) -> float:
    """Largest singular value by power iteration from the mean direction and from waves; a lower bound."""
    place = torch.arange(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    block = torch.stack([torch.ones_like(place), *(torch.cos(math.sqrt(k + 2) * (place + 1)) for k in range(7))], 1)
    for _ in range(steps):
        block, _ = torch.linalg.qr(matrix.T @ (matrix @ block))
    return float(torch.linalg.matrix_norm(matrix @ block, 2))


def _geometry(module: _ConvNd, entry: Tensor, weight: Tensor) -> tuple[Convolution | None, str, str]:
    """Return the geometry of a convolution, why theory cannot follow it, and what is assumed."""
    if isinstance(module, _ConvTransposeNd):
        return None, "theory knows no transposed convolutions", ""
    axes = len(module.kernel_size)
    # Pairs of one axis each, last axis first.
    pads = module._reversed_padding_repeated_twice
    before, after = tuple(pads[::2][::-1]), tuple(pads[1::2][::-1])
    if before != after:
        return None, "theory knows no padding that differs between the two sides", ""
    zeros = module.padding_mode == "zeros"
    note = (
        ""
        if zeros or module.padding_mode == "circular"
        else (f"approximate: padding_mode={module.padding_mode!r} is taken as circular")
    )
    geometry = Convolution(
        size=tuple(int(one) for one in entry.shape[-axes:]),
        kernel=tuple(module.kernel_size),
        padding=before,
        stride=tuple(module.stride),
        dilation=tuple(module.dilation),
        mode="zeros" if zeros else "circular",
        delta=_is_delta(weight),
    )
    return geometry, "", note


def _is_delta(weight: Tensor) -> bool:
    """Tell whether only the centre tap of a kernel is not zero, and others are there to be so."""
    taps = weight.flatten(2)
    if taps.shape[2] == 1 or any(size % 2 == 0 for size in weight.shape[2:]):
        return False
    others = torch.ones(taps.shape[2], dtype=torch.bool, device=taps.device)
    others[taps.shape[2] // 2] = False
    return not bool(taps[:, :, others].any()) and bool(taps.any())


def with_reuse(one: LayerRead, calls: int) -> str:
    """Return the note of a layer call, with what several calls of one layer add."""
    if calls == 1:
        return one.note
    return one.note or "approximate: this layer is called several times, and theory takes weights to be independent"
