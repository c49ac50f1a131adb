"""Theory of a run: what its layers and the size of their weights let one expect, without the model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from gradscope.errors import InvalidValueError
from gradscope.spec import LayerSpec
from gradscope.theory.functions import ACTIVATIONS
from gradscope.theory.recursion import propagate
from gradscope.theory.stages import NORMS, Level, Norm, Stage, Start

COLUMNS = ("step", "depth", "layer", "metric", "value", "low", "high", "source", "status")
RELATIVE = ("output_grad_norm", "weight_grad_norm")
"""Metrics whose values are relative to the last layer; `attrs["relative"]` of the frame names them."""
SENSITIVE = "approximate: sensitive: noise of the finite width grows from layer to layer"


def of_layers(
    layers: Sequence[LayerSpec],
    weight_rms: Mapping[int, float],
    output_rms: float,
    *,
    bias_rms: Mapping[int, float] | None = None,
    sample_spread: float = math.nan,
    step: int = 0,
) -> pd.DataFrame:
    """Return what theory expects of a recorded chain of linear layers, from the size of its weights.

    With sigma_w^2 = weight_rms^2 fan_in, sigma_b^2 = bias_rms^2 and q_1 = output_rms^2 of the first layer, the
    recursion of `propagate`. It takes weights as independent of each other and of the data: true at initialization,
    ever less so while a network trains.

    Args:
        layers: The layer calls of the run.
        weight_rms: Root mean square of the weights, by depth.
        output_rms: Measured root mean square of the first layer's output.
        bias_rms: Root mean square of the biases, by depth; 0 where missing.
        sample_spread: Measured sample_spread of the first layer: with it that of the others is predicted, and batch
            norm knows how alike samples are.
        step: Step of the rows.

    Returns:
        One row per layer and metric: step, depth, layer, metric, value, low, high, source (``theory``) and status.
        Metrics are output_rms, slope_rms, sample_spread (each without a band, so that low and high are the value), and
        output_grad_norm and weight_grad_norm relative to the last layer, with the 95 % band of single networks.
        Where theory says nothing, values are NaN and the status says why; of a network that is no chain of linear
        layers, all are.

    Raises:
        InvalidValueError: No layers, or a measured value below zero.
    """
    ordered = sorted(layers, key=lambda one: one.depth)
    if not ordered:
        raise InvalidValueError("theory of a run needs at least one layer")
    if output_rms < 0.0 or sample_spread < 0.0:
        raise InvalidValueError("output_rms and sample_spread of the first layer are not below 0")
    why = _why_no_chain(ordered, weight_rms)
    if not why and not math.isfinite(output_rms):
        why = f"the run does not hold a finite output_rms of its first layer, {ordered[0].layer!r}"
    if why:
        rows = (row for one in ordered for row in _missing(one, step, why))
    else:
        stages = [_stage(one, weight_rms[one.depth], (bias_rms or {}).get(one.depth, 0.0)) for one in ordered]
        levels = propagate(stages, Start(output_rms**2, _correlation(output_rms, sample_spread)))
        # A gradient has come through what is assumed of later layers as well.
        behind = levels[-1].status if levels[-1].status.startswith("approximate:") else ""
        rows = (row for one, level in zip(ordered, levels, strict=True) for row in _rows(one, level, behind, step))
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame.attrs["relative"] = RELATIVE
    return frame


def _why_no_chain(layers: Sequence[LayerSpec], weight_rms: Mapping[int, float]) -> str:
    """Say why these are no chain of linear layers; empty where they are."""
    before: tuple[int, ...] = ()
    for one in layers:
        if one.kind != "Linear":
            return f"a run does not hold the geometry of {one.kind} {one.layer!r}: predict from the model"
        if one.call != 1:
            return f"layer {one.layer!r} is called several times, and theory takes weights as independent"
        if one.parents != before:
            return f"layer {one.layer!r} does not follow the one before it alone: predict from the model"
        if not one.resolved:
            return f"what lies in front of layer {one.layer!r} was not understood"
        if not (math.isfinite(weight_rms.get(one.depth, math.nan)) and one.fan_in):
            return f"the run does not hold the size of the weights of layer {one.layer!r}"
        before = (one.id,)
    return ""


def _stage(spec: LayerSpec, weight_rms: float, bias_rms: float) -> Stage:
    known = spec.activation in ACTIVATIONS and spec.norm in NORMS
    norm: Norm = "none"
    for one in NORMS:
        norm = one if spec.norm == one else norm
    return Stage(
        weight_var=weight_rms**2 * spec.fan_in,
        bias_var=bias_rms**2,
        activation=spec.activation if known else "identity",
        norm=norm,
        fan_in=spec.fan_in,
        fan_out=spec.fan_out,
        name=spec.layer,
        why_not_behind="" if known else _unknown(spec),
    )


def _unknown(spec: LayerSpec) -> str:
    if spec.norm not in NORMS:
        return f"theory knows no normalization {spec.norm!r}, which follows layer {spec.layer!r}"
    if spec.activation == "?":
        return f"the activation function of layer {spec.layer!r} was not recognised"
    return f"theory of runs knows no activation function {spec.activation!r}, which follows layer {spec.layer!r}"


def _correlation(rms: float, spread: float) -> float:
    return max(0.0, 1.0 - (spread / rms) ** 2) if rms > 0.0 and not math.isnan(spread) else math.nan


def _rows(spec: LayerSpec, level: Level, behind: str, step: int) -> Iterator[tuple[object, ...]]:
    status = "; ".join(one for one in (level.status, SENSITIVE if level.sensitive else "") if one)
    rms = float(np.sqrt(level.q))
    shift = level.typical - level.log_gradient
    exact = {"output_rms": rms, "slope_rms": float(np.sqrt(level.slope)), "sample_spread": rms * level.spread}
    for metric, value in exact.items():
        # Without a measured spread of the first layer there is none to speak of, which is no fault of theory.
        if metric != "sample_spread" or not math.isnan(level.c):
            yield _row(spec, step, metric, (value, value, value), status)
    band = (level.typical, level.low, level.high)
    status = status if behind in status else "; ".join(one for one in (status, behind) if one)
    yield _row(spec, step, "output_grad_norm", _exp(band), status)
    offset = level.log_weight_gradient + shift - level.typical
    first = "" if status or not math.isnan(offset) else "what enters the first layer is not in the run"
    yield _row(spec, step, "weight_grad_norm", _exp([one + offset for one in band]), status or first)


def _missing(spec: LayerSpec, step: int, why: str) -> Iterator[tuple[object, ...]]:
    for metric in ("output_rms", "slope_rms", "sample_spread", *RELATIVE):
        yield _row(spec, step, metric, (math.nan, math.nan, math.nan), why)


def _row(spec: LayerSpec, step: int, metric: str, numbers: Sequence[float], status: str) -> tuple[object, ...]:
    return (step, spec.depth, spec.layer, metric, *numbers, "theory", status)


def _exp(logs: Sequence[float]) -> tuple[float, ...]:
    with np.errstate(over="ignore"):
        return tuple(float(one) for one in np.exp(np.asarray(logs, np.float64)))
