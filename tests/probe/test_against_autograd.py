"""Every signal of every odd model, against autograd by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from odd_models import ZOO, Odd, Truth, loss_of, truth, twin_of
from torch import Tensor

import gradscope as gs

DTYPES = (torch.float32, torch.float64)


@pytest.fixture(params=ZOO, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> type[Odd]:
    return request.param


def record(kind: type[Odd], dtype: torch.dtype, folder: Path) -> tuple[gs.Run, list[Truth], Odd, Odd]:
    torch.manual_seed(1)
    model = kind().to(dtype)
    x = torch.randn(kind.shape, dtype=dtype)
    twin = twin_of(model)
    torch.manual_seed(2)
    expected = truth(twin, x)
    torch.manual_seed(2)
    with gs.watch(model, out=folder, every=1, metrics="all") as probe:
        loss_of(model(x)).backward()
        probe.step()
    return probe.run, expected, model, twin


def norm(tensor: Tensor | None) -> float:
    return float("nan") if tensor is None else float(tensor.detach().double().norm())


def column(run: gs.Run, metric: str) -> list[float]:
    rows = run.frame(metric).reindex(columns=run.layers["depth"]).iloc[0]
    return [float(value) for value in rows]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_everything_recorded_equals_autograd_by_hand(kind: type[Odd], dtype: torch.dtype, tmp_path: Path) -> None:
    run, expected, _, _ = record(kind, dtype, tmp_path / "run")
    assert list(zip(run.layers["layer"], run.layers["call"], strict=True)) == [(one.name, one.call) for one in expected]
    assert run.coverage["code"].isin(["recorded"]).all(), run.coverage.to_string()
    near = {"rtol": 1e-5 if dtype is torch.float32 else 1e-12, "equal_nan": True}
    np.testing.assert_allclose(column(run, "output_grad_norm"), [norm(one.output_grad) for one in expected], **near)
    np.testing.assert_allclose(column(run, "input_grad_norm"), [norm(one.own) for one in expected], **near)
    np.testing.assert_allclose(column(run, "output_rms"), [rms(one.output) for one in expected], **near)
    np.testing.assert_allclose(column(run, "output_mean"), [mean(one.output) for one in expected], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(column(run, "output_std"), [std(one.output) for one in expected], **near)
    near_zero = {**near, "atol": 1e-6}
    np.testing.assert_allclose(column(run, "slope_rms"), [rms(one.slope) for one in expected], **near_zero)
    np.testing.assert_allclose(column(run, "activation_mean"), [mean(one.phi) for one in expected], **near_zero)
    np.testing.assert_allclose(column(run, "activation_std"), [std(one.phi) for one in expected], **near)
    np.testing.assert_allclose(column(run, "zero_fraction"), [zeros(one.phi) for one in expected], **near_zero)
    np.testing.assert_allclose(column(run, "saturation"), [flat(one) for one in expected], **near_zero)


def test_gradient_of_the_next_input_is_the_total_one(kind: type[Odd], tmp_path: Path) -> None:
    run, expected, _, _ = record(kind, torch.float64, tmp_path / "run")
    shares = column(run, "input_share")
    for one, share in zip(expected, shares, strict=True):
        if one.own is not None and one.total is not None:
            total = one.total.double()
            assert share == pytest.approx(float((one.own * total).sum() / total.square().sum()), rel=1e-12)
    measured = column(run, "next_input_grad_norm")
    parents = run.layers.set_index("depth")["parents"]
    for depth, value in enumerate(measured, start=1):
        children = [child for child, found in parents.items() if depth in found]
        expected_total = norm(expected[children[0] - 1].total) if children else float("nan")
        assert value == pytest.approx(expected_total, rel=1e-12, nan_ok=True)


def test_parameter_metrics_stand_on_the_first_call(kind: type[Odd], tmp_path: Path) -> None:
    run, expected, _, twin = record(kind, torch.float64, tmp_path / "run")
    truths = dict(twin.named_parameters())
    for one, value, raw in zip(
        expected, column(run, "weight_grad_norm"), column(run, "weight_grad_norm_raw"), strict=True
    ):
        first = norm(truths[f"{one.name}.weight"].grad) if one.call == 1 else float("nan")
        assert value == pytest.approx(first, rel=1e-12, nan_ok=True)
        assert raw == pytest.approx(first, rel=1e-12, nan_ok=True)


def test_histograms_count_every_entry(kind: type[Odd], tmp_path: Path) -> None:
    run, expected, _, _ = record(kind, torch.float64, tmp_path / "run")
    found = run.histograms
    for depth, one in enumerate(expected, start=1):
        mine = found[(found["depth"] == depth) & (found["quantity"] == "output_grad")].iloc[0]
        values = one.output_grad.detach().double().flatten().numpy()
        counted = sum(mine["positive"]) + sum(mine["negative"]) + mine["zeros"] + mine["nonfinite"]
        assert counted == mine["sampled"] == mine["entries"] == values.size
        assert sum(mine["positive"]) == int((values > 0).sum())
        for place, count in enumerate(mine["positive"]):
            low = 2.0 ** (mine["lowest"] + place)
            assert count == int(((values >= low) & (values < 2 * low)).sum())
        wanted = one.u if one.u is not None else one.output
        of_u = found[(found["depth"] == depth) & (found["quantity"] == "activation_input")]
        if len(of_u):
            assert sum(of_u.iloc[0]["positive"]) == int((wanted > 0).sum())
            assert sum(of_u.iloc[0]["negative"]) == int((wanted < 0).sum())


def rms(tensor: Tensor | None) -> float:
    return float("nan") if tensor is None else float(tensor.detach().double().square().mean().sqrt())


def mean(tensor: Tensor | None) -> float:
    return float("nan") if tensor is None else float(tensor.detach().double().mean())


def std(tensor: Tensor | None) -> float:
    return float("nan") if tensor is None else float(tensor.detach().double().std(unbiased=False))


def zeros(tensor: Tensor | None) -> float:
    return float("nan") if tensor is None else float((tensor == 0).double().mean())


def flat(one: Truth) -> float:
    if one.slope is None:
        return float("nan")
    return float((one.slope.abs() < 0.01 * one.steepest).double().mean())
