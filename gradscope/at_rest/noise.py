"""``gradient_noise``: how much of a batch's gradient is signal, and how large a batch would be worth its while."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from gradscope.at_rest.copies import Loss, call_model, loss_of
from gradscope.at_rest.given import check_finite
from gradscope.at_rest.preflight_step import usable_loss
from gradscope.at_rest.reading_copy import copy_input, copy_model, undisturbed
from gradscope.errors import InvalidTypeError, InvalidValueError
from gradscope.runs.given import whole

GROUPS = 10
CHUNK_ENTRIES = 2**24
"""Entries of the per-sample gradients that are held at once."""
WHOLE = "(all)"
Gradients = dict[str, Tensor]
Parts = Iterator[tuple[int, Gradients]]


@dataclass
class Sums:
    """Sums over the gradients of the parts of a group, in float64: of g and of g^2 by entry."""

    count: int = 0
    first: Gradients = field(default_factory=dict)
    second: Gradients = field(default_factory=dict)

    def add(self, gradients: Gradients) -> None:
        """Add gradients of shape (parts, ...)."""
        for name, one in gradients.items():
            values = one.detach().double()
            first, second = values.sum(0), values.square().sum(0)
            self.first[name] = self.first[name] + first if name in self.first else first
            self.second[name] = self.second[name] + second if name in self.second else second
        self.count += len(next(iter(gradients.values())))


def gradient_noise(
    model: nn.Module, x: Tensor, y: Tensor, loss_fn: Loss | None = None, *, part: int | None = None
) -> pd.DataFrame:
    """Measure signal and noise of the gradient, for each parameter and for all, from the parts of one batch.

    With g_k the gradients of K parts of b samples each (b = 1: per-sample gradients)::

        trace    tr Sigma = b sum_k |g_k - mean g|^2 / (K - 1)        variance of a per-sample gradient
        signal   |G|^2 = |mean g|^2 - tr Sigma / (b K)                of the true gradient, unbiased, may be negative
        scale    B = tr Sigma / |G|^2                                  the batch at which noise and signal are equal
        snr      mean over entries j of G_j^2 / Sigma_jj               of one sample
        cosine   1 / (1 + B / n)                                      expected between two batches as large as this one

    Below B, twice the batch is worth nearly twice the steps; above, it is worth little.

    Args:
        model: The model, in the mode in which it is to be trained; its copy is used.
        x: Inputs, (samples, ...).
        y: Targets, as many.
        loss_fn: ``loss_fn(model(x), y)``, the mean over samples; None means cross-entropy for integer targets, else
            mean squared error.
        part: Samples in a part; None is 1 (by ``torch.func``, or one by one where it cannot), or 8 where samples
            meet in batch normalization.

    Returns:
        One row per parameter that gets a gradient, and ``(all)`` last: parameter, entries, trace, signal, scale, low,
        high (a 95 % interval of the scale, by a jackknife over ten groups of parts), snr, cosine, part, n, status. A
        scale is infinite where no signal can be told from the noise. Status is empty, or says why there is no interval:
        fewer than ten parts, or gradients that do not differ or are no numbers.

    Raises:
        InvalidTypeError: The model is no module, x or y is no tensor, or the loss none.
        InvalidValueError: x and y differ in length, hold NaN or infinity, or make fewer than two parts; the loss is no
            single number.
        Exception: what the model itself raises.

    Source: McCandlish et al. 2018 (noise scale); Liu et al. 2020 (signal-to-noise ratio of a gradient).

    >>> import torch
    >>> x = torch.randn(256, 5)
    >>> gradient_noise(torch.nn.Linear(5, 1), x, x @ torch.ones(5, 1))["parameter"].tolist()
    ['weight', 'bias', '(all)']
    """
    size = _checked(model, x, y, part)
    loss = usable_loss(loss_fn)
    with undisturbed():
        if size == 1:
            # Of one sample a loss per sample would look like a single number.
            loss_of(loss, call_model(copy_model(model, "gradient_noise"), copy_input(x[:2])), copy_input(y[:2]))
        try:
            groups = _groups(_per_sample if size == 1 else _per_part, model, loss, x, y, size)
        except RuntimeError:
            if size > 1:
                raise
            # What `torch.func` cannot map over samples, such as a GRU or a branch on values, goes one by one; what the
            # model itself raises, it raises again.
            groups = _groups(_per_part, model, loss, x, y, size)
    return _table(groups, size)


def _groups(each: Callable[..., Parts], model: nn.Module, loss: Loss, x: Tensor, y: Tensor, size: int) -> list[Sums]:
    """Return the sums over groups of parts, from a fresh copy of the model."""
    groups = [Sums() for _ in range(min(GROUPS, len(x) // size))]
    for place, gradients in each(copy_model(model, "gradient_noise"), loss, copy_input(x), copy_input(y), size):
        _spread(groups, place, gradients)
    return groups


def _checked(model: Any, x: Any, y: Any, part: int | None) -> int:
    """Return how many samples make a part."""
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"model is a torch.nn.Module, not {type(model).__name__}")
    for name, one in (("x", x), ("y", y)):
        if not isinstance(one, Tensor) or one.ndim == 0:
            raise InvalidTypeError(f"{name} is a tensor (samples, ...), not {type(one).__name__}")
    if len(x) != len(y):
        raise InvalidValueError(f"x has {len(x)} samples and y has {len(y)}")
    meets = any(isinstance(one, nn.modules.batchnorm._BatchNorm) and one.training for one in model.modules())
    size = (8 if meets else 1) if part is None else whole("part", part)
    if size < 1 or len(x) < 2 * size:
        raise InvalidValueError(f"{len(x)} samples do not make two parts of {size}")
    check_finite("x", x)
    check_finite("y", y)
    _trained(model)
    return size


def _trained(model: nn.Module) -> Gradients:
    found: Gradients = {name: one for name, one in model.named_parameters() if one.requires_grad}
    if not found:
        raise InvalidValueError("no parameter of the model is trained")
    return found


def _per_sample(twin: nn.Module, loss: Loss, x: Tensor, y: Tensor, _: int) -> Parts:
    """Yield gradients of single samples, by `torch.func`, some samples at a time."""
    parameters = {name: one.detach() for name, one in _trained(twin).items()}

    def of_one(values: Gradients, one: Tensor, target: Tensor) -> Tensor:
        return loss(functional_call(twin, values, (one[None],)), target[None])

    several: Callable[..., Gradients] = vmap(grad(of_one), (None, 0, 0), randomness="different")
    chunk = max(1, CHUNK_ENTRIES // sum(one.numel() for one in parameters.values()))
    for start in range(0, len(x), chunk):
        with warnings.catch_warnings():
            # How fast it goes over an LSTM is no news of the model.
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            found = several(parameters, x[start : start + chunk], y[start : start + chunk])
        yield start, found


def _per_part(twin: nn.Module, loss: Loss, x: Tensor, y: Tensor, size: int) -> Parts:
    """Yield gradients of parts of the batch, one backward pass each."""
    parameters = _trained(twin)
    for place in range(len(x) // size):
        inside = slice(place * size, (place + 1) * size)
        found = torch.autograd.grad(
            loss_of(loss, call_model(twin, x[inside]), y[inside]), list(parameters.values()), allow_unused=True
        )
        named = zip(parameters, found, strict=True)
        yield place, {name: one[None] for name, one in named if one is not None}


def _spread(groups: list[Sums], place: int, gradients: Gradients) -> None:
    """Deal the gradients of parts out to the groups, in turn."""
    count = len(next(iter(gradients.values())))
    owners = (torch.arange(count) + place) % len(groups)
    for group in sorted(set(owners.tolist())):
        groups[group].add({name: one[owners == group] for name, one in gradients.items()})


@dataclass(frozen=True)
class _Noise:
    trace: float
    signal: float
    snr: float

    @property
    def scale(self) -> float:
        if not math.isfinite(self.trace) or not math.isfinite(self.signal):
            return math.nan
        return self.trace / self.signal if self.signal > 0.0 else math.inf


def _noise(groups: list[Sums], names: list[str], size: int) -> _Noise:
    """Return signal and noise of some parameters together."""
    count = sum(one.count for one in groups)
    trace = signal = ratios = 0.0
    entries = 0
    for name in names:
        mean = torch.stack([one.first[name] for one in groups]).sum(0) / count
        square = torch.stack([one.second[name] for one in groups]).sum(0) / count
        variance = (square - mean.square()).clamp(min=0.0) * count / (count - 1) * size
        squared = mean.square() - variance / (size * count)
        trace, signal = trace + float(variance.sum()), signal + float(squared.sum())
        known = variance > 0.0
        ratios, entries = ratios + float((squared[known] / variance[known]).sum()), entries + int(known.sum())
    return _Noise(trace, signal, ratios / entries if entries else math.nan)


def _table(groups: list[Sums], size: int) -> pd.DataFrame:
    names = list(groups[0].first)
    count = sum(one.count for one in groups) * size
    sets = {name: [name] for name in names} | {WHOLE: names}
    rows = []
    for label, chosen in sets.items():
        found = _noise(groups, chosen, size)
        status = _no_interval(groups, size, found)
        low, high = (math.nan, math.nan) if status else _interval(groups, chosen, size, found)
        rows.append(
            {
                "parameter": label,
                "entries": sum(groups[0].first[name].numel() for name in chosen),
                "trace": found.trace,
                "signal": found.signal,
                "scale": found.scale,
                "low": low,
                "high": high,
                "snr": found.snr,
                "cosine": 1.0 / (1.0 + found.scale / count),
                "part": size,
                "n": count,
                "status": status,
            }
        )
    return pd.DataFrame(rows)


def _no_interval(groups: list[Sums], size: int, found: _Noise) -> str:
    """Say why the scale has no interval; empty where it has one."""
    if not math.isfinite(found.trace) or not math.isfinite(found.signal):
        return "gradients hold NaN or infinity"
    if not found.trace > 0.0:
        return "no interval: all parts have the same gradient"
    if len(groups) < GROUPS:
        return (
            f"no interval: it takes {GROUPS} parts, and there are {len(groups)} of {size}: give {GROUPS * size} samples"
        )
    return ""


def _interval(groups: list[Sums], names: list[str], size: int, found: _Noise) -> tuple[float, float]:
    """Return the interval of the scale from that of its inverse, which stays finite where the signal is small."""
    without = [_noise(groups[:one] + groups[one + 1 :], names, size) for one in range(len(groups))]
    inverse = torch.tensor([one.signal / one.trace for one in without], dtype=torch.float64)
    error = math.sqrt((len(groups) - 1) * float(inverse.var(unbiased=False)))
    middle = found.signal / found.trace
    # Ten groups: Student's t with nine degrees of freedom.
    ends = middle + 2.262 * error, middle - 2.262 * error
    low, high = (1.0 / one if one > 0.0 else math.inf for one in ends)
    return low, high
