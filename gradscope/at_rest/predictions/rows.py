"""What theory says of every layer, as rows like those of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from gradscope.at_rest.predictions.anchor import Anchor
from gradscope.at_rest.predictions.scatter import BAND, UNKNOWN, Scatter, flat
from gradscope.at_rest.predictions.start import likeness, samples_of
from gradscope.at_rest.readings.layers import LayerRead
from gradscope.at_rest.readings.model import Reading
from gradscope.theory.expectations import moments
from gradscope.theory.functions import Activation, activation_of
from gradscope.theory.stages import Level, Residual, Stage

COLUMNS = ("step", "depth", "layer", "metric", "value", "low", "high", "source", "status")
FORWARD = ("output_rms", "sample_spread")
BACKWARD = ("output_grad_norm", "output_grad_rms", "weight_grad_norm", "weight_grad_rms")
ACTIVATION = ("activation_std", "slope_rms")
APPROXIMATE = "approximate: "
ROUNDING = 1e-5
SPREAD_ENTRIES = 8192
"""Entries that a probe takes sample_spread of, about."""
METRICS = (*FORWARD, *ACTIVATION, *BACKWARD)


@dataclass(frozen=True)
class Value:
    """A number with its band and what is to be said of it."""

    value: float
    low: float
    high: float
    status: str = ""


@dataclass(frozen=True)
class Theory:
    """Everything that rows are made of.

    Attributes:
        reading: The model.
        levels: What theory says of its stages.
        anchor: The gradients at the last one.
        together: Correlation of different samples' gradients, from ``coherence``, by name of a stage.
        scatters: How single networks scatter, by name of a stage.
        apart: Variance of z over samples, by name of a stage.
        follow: How far correlations of samples follow those at the beginning, by name of a stage.
    """

    reading: Reading
    levels: Sequence[Level]
    anchor: Anchor
    together: Mapping[str, float]
    scatters: Mapping[str, Scatter]
    apart: Mapping[str, float]
    follow: Mapping[str, float]

    @cached_property
    def dispersion(self) -> float:
        """Mean over units of the standard deviation over samples, relative to the root of the mean variance.

        Below 1 as far as units differ in their variance; measured at the first layer.
        """
        values = samples_of(self.reading.layers[0], self.reading.layers[0].output)
        if len(values) < 2:
            return math.nan
        variance = float((values**2).mean()) * (1.0 - likeness(values))
        return float(np.std(values, axis=0, ddof=1).mean()) / math.sqrt(variance) if variance > 0 else math.nan

    @cached_property
    def leans(self) -> dict[str, float]:
        """<d_i, z_j> of different samples, by name of a stage.

        It comes down unchanged where phi is homogeneous and there are no biases; dln E phi^2 / dln q of it through
        other phi, nothing through a normalization, which does not mind the length of z.
        """
        found, lean, above = {}, self.anchor.lean, False
        for stage, level in zip(reversed(flat(self.reading.network)), reversed(self.levels), strict=True):
            if above and stage.norm != "none":
                lean = 0.0
            elif above and level.activation_square > 0.0:
                phi = moments(activation_of(stage.activation), level.q)
                lean *= level.q * float(phi.length_slope) / level.activation_square
            found[level.name] = lean
            lean *= 1.0 - min(stage.bias_var / level.q, 1.0) if level.q > 0.0 else 0.0
            above = True
        return found

    def likes(self, level: Level) -> float:
        """What pairs of like samples with like gradients add to <d_i, d_j> <z_i, z_j> / |d|^2 of any pair."""
        if not self.anchor.alike or level.name not in self.follow or level.name not in self.together:
            return 0.0
        passed = self.together[level.name] / self.anchor.alike
        return passed * self.anchor.likes * self.follow[level.name] * level.q

    def of_sample(self, one: LayerRead) -> float:
        """Variance of ln of the square of a sample_spread that a probe takes over some of the units only."""
        samples, columns = len(samples_of(one, one.output)), one.output[0].numel() if one.size else one.output.shape[-1]
        taken = max(1, SPREAD_ENTRIES // samples)
        if taken >= columns or not self.dispersion > 0.0:
            return 0.0
        return 4.0 * max(self.dispersion**-2 - 1.0, 0.0) / taken * (1.0 - taken / columns)


def rows(theory: Theory) -> Iterator[tuple[object, ...]]:
    """Yield one row per layer call and metric, metric by metric, in order of depth."""
    reading = theory.reading
    known = {int(level.name): level for level in theory.levels if level.name}
    followed = activations(reading.network)
    found: list[dict[str, Value]] = []
    before, behind = _notes_along(reading)
    for place, one in enumerate(reading.layers):
        if place not in known:
            found.append({metric: missing(reading.lost[place]) for metric in (*FORWARD, *BACKWARD)})
            continue
        level = known[place]
        status = joined(level.status, SENSITIVE if level.sensitive else "")
        values = _forward(theory, one, level, joined(status, before[place]))
        if place in followed:
            values |= _activation(theory, level, reading.factors.get(place, 1.0), joined(status, before[place]))
        # The gradient has come through everything from the last layer on.
        status = joined(status, _assumed(theory.levels[-1].status), behind[place], theory.anchor.status)
        found.append(values | _backward(theory, one, level, status))
    for metric in METRICS:
        for one, values in zip(reading.layers, found, strict=True):
            if metric in values:
                value = _settled(values[metric])
                numbers = (value.value, value.low, value.high)
                yield 0, one.depth, one.layer.name, metric, *numbers, "theory", value.status


LEANS = "approximate: gradients are taken not to depend on the weights, but outputs are so large that the loss's do"
LOOSE = "approximate: positions of a convolution are taken to pull at a weight independently"
DRAWN = "approximate: without y, targets are drawn; where like samples have like ones, they pull at a weight together"
LIKES = (
    "approximate: like samples have like gradients here, which is not followed through normalizations over the batch"
)
SENSITIVE = "approximate: sensitive: the noise of finite width grows from layer to layer"


def activations(network: Sequence[Stage | Residual]) -> Mapping[int, str]:
    """Return the names of single activation functions that follow layer calls directly, by the places of these."""
    found: dict[int, str] = {}
    for one in network:
        if isinstance(one, Residual):
            found.update(activations(one.branch))
            found.update(activations(one.shortcut))
            continue
        name = one.activation.name if isinstance(one.activation, Activation) else one.activation
        plain = name.split()[-1]
        if one.name and plain not in ("identity", "?") and "(" not in plain:
            found[int(one.name)] = plain
    return found


def joined(*texts: str) -> str:
    """Put reasons together, each once; that something is approximate is said once, in front.

    >>> joined("approximate: a", "", "approximate: b", "approximate: a")
    'approximate: a; b'
    """
    sure: dict[str, None] = {}
    assumed: dict[str, None] = {}
    for text in texts:
        plain, _, rest = text.partition(APPROXIMATE)
        sure |= dict.fromkeys(part for part in plain.split("; ") if part)
        assumed |= dict.fromkeys(part for part in rest.replace(APPROXIMATE, "").split("; ") if part)
    return "; ".join([*sure, *([APPROXIMATE + "; ".join(assumed)] if assumed else [])])


def _assumed(status: str) -> str:
    return status if status.startswith(APPROXIMATE) else ""


def _settled(one: Value) -> Value:
    """Leave of the reasons those that count: why there is no number, or what was assumed for the one there is."""
    plain, mark, rest = one.status.partition(APPROXIMATE)
    if math.isnan(one.value):
        return missing(plain.removesuffix("; ") or one.status or "theory says nothing here")
    return replace(one, status=mark + rest)


def _notes_along(reading: Reading) -> tuple[list[str], list[str]]:
    """What is assumed of the layers up to each, and of those from each on."""
    texts = [_named(reading, place) for place in range(len(reading.layers))]
    first = next((place for place, text in enumerate(texts) if text), len(texts))
    last = next((place for place in reversed(range(len(texts))) if texts[place]), -1)
    before = [texts[place] or (texts[first] if place > first else "") for place in range(len(texts))]
    behind = [texts[place] or (texts[last] if place < last else "") for place in range(len(texts))]
    return before, behind


def _named(reading: Reading, place: int) -> str:
    note = reading.notes.get(place, "")
    return note and f"{APPROXIMATE}layer {reading.layers[place].layer.name!r}: {note.removeprefix(APPROXIMATE)}"


def missing(status: str) -> Value:
    """Return no number, and why."""
    return Value(math.nan, math.nan, math.nan, status)


def _forward(theory: Theory, one: LayerRead, level: Level, status: str) -> dict[str, Value]:
    rms = math.sqrt(level.q) if level.q >= 0 else math.nan
    scatter = theory.scatters.get(level.name, UNKNOWN)
    # What the first layer returns has been measured.
    known = one.depth == 1 and not one.size
    found = {"output_rms": _banded(rms, 0.0 if known else scatter.output, status)}
    if len(samples_of(one, one.output)) < 2:
        return found | {"sample_spread": missing("a single sample has no spread")}
    spread = math.sqrt(theory.apart.get(level.name, math.nan)) * theory.dispersion
    if spread == 0.0 and one.depth > 1:
        return found | {"sample_spread": missing("samples are alike to rounding")}
    if spread < rms * torch.finfo(one.output.dtype).eps:
        status = joined(status, f"approximate: below the rounding of {one.output.dtype}".replace("torch.", ""))
    variance = (0.0 if known else scatter.spread) + theory.of_sample(one)
    return found | {"sample_spread": _banded(spread, variance, status)}


def _banded(value: float, variance: float, status: str) -> Value:
    """Return a root mean square with the band that follows from the variance of the logarithm of its square."""
    # What is known beforehand is still computed twice, in the type of the model.
    half = max(0.5 * BAND * math.sqrt(variance), ROUNDING)
    return Value(value, value * math.exp(-half), value * math.exp(half), status)


def _activation(theory: Theory, level: Level, factor: float, status: str) -> dict[str, Value]:
    scatter, scale = theory.scatters.get(level.name, UNKNOWN), abs(factor) or math.nan
    slope = math.sqrt(level.slope) if level.slope >= 0 else math.nan
    variance = level.activation_square - level.activation_mean**2
    # What is subtracted with the mean scatters as well.
    larger = level.activation_square / variance if variance > 0 else math.nan
    std = math.sqrt(variance) if variance >= 0 else math.nan
    return {
        "activation_std": _banded(std / scale, scatter.activation * larger, status),
        "slope_rms": _banded(slope / scale, scatter.slope, status),
    }


def _backward(theory: Theory, one: LayerRead, level: Level, status: str) -> dict[str, Value]:
    anchor, part = theory.anchor, theory.scatters.get(level.name, UNKNOWN).shrinkage
    # The mean over a batch scatters less than a single sample, and its logarithm lies nearer to that of the mean.
    log = level.log_gradient - part * (level.log_gradient - level.typical)
    norm = _banded(anchor.output_grad * _exp(log), 4.0 * level.log_var, status)
    found = {"output_grad_norm": norm, "output_grad_rms": _times(norm, 1.0 / math.sqrt(one.output.numel()))}
    if one.call == 1:
        weight = one.layer.module.weight
        assert isinstance(weight, Tensor)
        alike = theory.together.get(level.name, 0.0 if len(one.output) < 2 else math.nan)
        length, share = _input_norm(one, level, alike, theory.likes(level))
        loose = joined(status, _assumed_of_samples(theory, one))
        scatter = 0.0 if one.depth == 1 else theory.scatters.get(level.name, UNKNOWN).output
        of_weight = _banded(norm.value * length, 4.0 * level.log_var * (1.0 + share**2) + scatter, loose)
        if level is theory.levels[-1]:
            of_weight = _banded(anchor.weight_grad, 0.0, joined(status, DRAWN if anchor.drawn else ""))
        elif _leans(theory, one, level, of_weight.value):
            of_weight = replace(of_weight, status=joined(loose, LEANS))
        found["weight_grad_norm"] = of_weight
        found["weight_grad_rms"] = _times(of_weight, 1.0 / math.sqrt(weight.numel()))
    return found


def _assumed_of_samples(theory: Theory, one: LayerRead) -> str:
    """Say where samples are taken to pull at a weight independently of how like they are, and that may count.

    It may where what like samples add to a square would be more than a tenth: (samples - 1) times the covariance of
    their likeness and that of their gradients.
    """
    samples, texts = len(samples_of(one, one.output)), [LOOSE if math.prod(one.size) > 1 else ""]
    if samples > 1 and theory.anchor.drawn:
        texts.append(DRAWN)
    elif not texts[0] and not theory.follow and (samples - 1) * abs(theory.anchor.likes) > 0.1:
        texts.append(LIKES)
    return joined(*texts)


def _leans(theory: Theory, one: LayerRead, level: Level, value: float) -> bool:
    """Tell whether what gradients owe to the outputs is more than a tenth of the square of a weight's gradient.

    All d_i have at least <d_i, z_j> / |z| in common.
    """
    samples, stage = len(samples_of(one, one.output)), one.stage
    if not (stage.weight_var > 0 and level.q > 0 and stage.fan_out):
        return False
    common = stage.fan_in * max(level.q * level.c - stage.bias_var, 0.0) / stage.weight_var
    return (samples * theory.leans[level.name]) ** 2 / (stage.fan_out * level.q) * common > 0.1 * value**2


def _input_norm(one: LayerRead, level: Level, alike: float, likes: float) -> tuple[float, float]:
    """Return |dL/dW| / |dL/dz|, and the share of its square that different samples have pulled together.

    Of one sample that is the norm of the input a; over a batch |dL/dW|^2 = sum over pairs of samples of
    <d_i, d_j> <a_i, a_j>, that is |dL/dz|^2 |a|^2 (1 + (samples - 1) (corr(d) corr(a) + likes)), where `likes` is
    the covariance of the two correlations over pairs, times q.
    """
    stage, samples = one.stage, len(samples_of(one, one.output))
    square = (level.q - stage.bias_var) / stage.weight_var if stage.weight_var > 0 else math.nan
    common = (level.q * level.c - stage.bias_var) / stage.weight_var if stage.weight_var > 0 else math.nan
    if one.depth == 1:
        # What entered the first layer is known.
        values = samples_of(one, one.entry)
        square = float((values**2).mean())
        common = square * likeness(values)
    if math.isnan(square) or math.isnan(alike * common):
        return math.nan, 0.0
    pairs = alike * common + likes / (stage.weight_var or math.inf)
    both = 0.0 if samples < 2 else max(-1.0, (samples - 1) * pairs / square) if square > 0 else 0.0
    return math.sqrt(max(0.0, stage.fan_in * square * (1.0 + both))), max(both, 0.0) / (1.0 + max(both, 0.0))


def _exp(exponent: float) -> float:
    return math.inf if exponent > 700.0 else math.exp(exponent)


def _times(one: Value, by: float) -> Value:
    return Value(one.value * by, one.low * by, one.high * by, one.status)
