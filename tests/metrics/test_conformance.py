"""What every metric must obey, the next one included: this suite runs over the registry."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradscope.metrics import Metric, Ratio, registered
from gradscope.probe.reduce import sample, units
from gradscope.signals import FLAT, FP16_SMALLEST, OVERLAPS, Moments, Request, Squares
from gradscope.spec import MetricSpec

METRICS = registered()
every_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)


def signal(request: Request, seed: int, scale: float = 1.0) -> Any:
    """A signal as the probe would hand it over."""
    generator = torch.Generator().manual_seed(seed + sum(map(ord, request.signal)))
    if request.signal == "slope_max":
        return 1.0
    if request.signal == "dead_units":
        return np.asarray([True, False, False, True])
    tensor = torch.randn(16, 12, generator=generator, dtype=torch.float64) * scale
    if request.signal == "slope":
        tensor = tensor.abs().clamp(max=1.0)
    if request.signal in OVERLAPS:
        return np.asarray([float(tensor.square().sum()) / 2])
    if request.is_statistic:
        return statistic(request, tensor.numpy())
    if request.form == "sample":
        return sample(tensor.reshape(-1), 12)
    return units(tensor, -1) if request.form == "units" else tensor


def statistic(request: Request, entries: NDArray[np.float64]) -> Any:
    """A statistic of one call, by the plainest formula."""
    if request.form == "moments":
        deviations = ((entries - entries.mean()) ** 2).sum()
        return Moments(*(np.asarray([one]) for one in (entries.size, entries.sum(), (entries**2).sum(), deviations)))
    if request.form == "squares":
        return Squares(np.asarray([float(entries.size)]), np.asarray([(entries**2).sum()]))
    if request.form == "spread":
        return np.asarray([np.std(entries, axis=0, ddof=1).mean()])
    size = np.abs(entries)
    is_small = size < FLAT if request.signal == "slope" else (size > 0) & (size <= FP16_SMALLEST / 2)
    return np.asarray([{"zeros": entries == 0, "small": is_small, "power": entries**2}[request.form].mean()])


def arguments(metric: Metric, seed: int = 0, scale: float = 1.0) -> list[Any]:
    return [signal(request, seed, scale) for request in metric.requests]


def value(metric: Metric, given: list[Any]) -> float:
    result = metric.function(*given)
    if isinstance(result, Ratio):
        return float(np.asarray(result.numerator).item()) / float(np.asarray(result.denominator).item())
    assert np.asarray(result).size == 1
    return float(np.asarray(result).reshape(-1)[0])


@every_metric
def test_it_returns_one_number_within_its_bounds(metric: Metric) -> None:
    low, high = metric.spec.bounds
    result = value(metric, arguments(metric))
    assert (low if low is not None else -math.inf) <= result <= (high if high is not None else math.inf)


@every_metric
def test_it_does_not_change_its_input_and_keeps_no_graph(metric: Metric) -> None:
    given = arguments(metric)
    before = [one.clone() if isinstance(one, Tensor) else one for one in given]
    result = metric.function(*given)
    for one, kept in zip(given, before, strict=True):
        if isinstance(one, Tensor):
            assert torch.equal(one, kept)
    assert not (isinstance(result, Tensor) and result.requires_grad)


@every_metric
@pytest.mark.parametrize("factor", [2.0, 1e-25])
def test_its_degree_holds(metric: Metric, factor: float) -> None:
    degree = metric.spec.degree
    if degree is None:
        assert metric.name in NO_DEGREE, "say its degree, or list it here with the reason"
        return
    scaled = value(metric, arguments(metric, scale=factor))
    assert scaled == pytest.approx(factor**degree * value(metric, arguments(metric)), rel=1e-9)


# No f(c g) = c^d f(g): they compare with a threshold, a function in between bends them, or two scales meet.
NO_DEGREE = (
    "fp16_underflow_fraction",
    "update_ratio",
    "activation_mean",
    "activation_std",
    "zero_fraction",
    "saturation",
    "slope_rms",
    "dead_fraction",
)


@every_metric
def test_it_does_not_depend_on_the_order_of_samples(metric: Metric) -> None:
    if any(request.is_statistic or request.form == "sample" for request in metric.requests):
        return  # handed over without an order
    given = arguments(metric)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    shuffled = [one[order] if isinstance(one, Tensor) else one for one in given]
    assert value(metric, shuffled) == pytest.approx(value(metric, given), rel=1e-9)


@every_metric
def test_it_is_documented(metric: Metric) -> None:
    spec = metric.spec
    assert spec.label
    assert spec.formula
    assert spec.doc == (inspect.getdoc(metric.function) or "").splitlines()[0]
    assert spec.doc.endswith((".", ")", ";")) or spec.doc[-1].isalpha()
    if any(request.form in ("sample", "units", "zeros", "small", "power", "spread") for request in metric.requests):
        assert "sample" in spec.parameters


@every_metric
def test_its_spec_survives_json(metric: Metric) -> None:
    assert MetricSpec.from_json(metric.spec.to_json()) == metric.spec
    assert set(metric.spec.to_json()) == {one.name for one in fields(MetricSpec)}


def test_the_groups_hold_what_they_should() -> None:
    groups: dict[str, set[str]] = {}
    for metric in METRICS.values():
        groups.setdefault(metric.spec.group, set()).add(metric.name)
    assert groups == {
        "backward": {
            "output_grad_norm",
            "output_grad_rms",
            "input_grad_norm",
            "next_input_grad_norm",
            "input_grad_total_norm",
            "input_share",
            "phi_gain",
            "norm_gain",
            "join_gain",
            "join_share",
            "output_grad_zero_fraction",
            "fp16_underflow_fraction",
        },
        "weights": {
            "weight_grad_norm",
            "weight_grad_norm_raw",
            "weight_grad_rms",
            "weight_grad_zero_fraction",
            "bias_grad_norm",
            "weight_rms",
            "bias_rms",
            "update_ratio",
        },
        "forward": {"output_mean", "output_std", "output_rms", "sample_spread"},
        "activation": {
            "activation_mean",
            "activation_std",
            "zero_fraction",
            "saturation",
            "slope_rms",
            "dead_fraction",
        },
    }


SLOW: dict[str, Callable[..., float]] = {
    "output_grad_norm": lambda g: sum(float(v) ** 2 for v in g.flatten()) ** 0.5,
    "output_grad_rms": lambda g: (sum(float(v) ** 2 for v in g.flatten()) / g.numel()) ** 0.5,
    "output_mean": lambda g: sum(float(v) for v in g.flatten()) / g.numel(),
    "output_std": lambda g: float(np.std(g.numpy())),
    "sample_spread": lambda g: float(np.mean([np.std(column, ddof=1) for column in g.numpy().T])),
    "zero_fraction": lambda g: sum(float(v) == 0 for v in g.flatten()) / g.numel(),
    "saturation": lambda g: sum(abs(float(v)) < 0.01 for v in g.flatten()) / g.numel(),
    "slope_rms": lambda g: (sum(float(v) ** 2 for v in g.flatten()) / g.numel()) ** 0.5,
    "fp16_underflow_fraction": lambda g: float(np.mean((g.numpy() != 0) & (g.numpy().astype(np.float16) == 0))),
}


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize("scale", [1.0, 3e-8])
def test_against_a_slow_computation(name: str, scale: float) -> None:
    metric = METRICS[name]
    request = metric.requests[0]
    tensor = signal(Request(request.signal, ""), 0, scale)
    assert value(metric, arguments(metric, scale=scale)) == pytest.approx(SLOW[name](tensor), rel=1e-9)
