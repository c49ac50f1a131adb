"""Gradients of 1e-12 and of 1 in one picture, and an outlier that flattens nothing.

Histograms with linear bins over the range of the moment hide the shape of what is small, and a late outlier squeezes
all earlier steps (tensorboard#1803, tensorboard#3579, tensorboard#5871, tensorboardX#42).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradscope as gs
from gradscope.runs import Writer
from gradscope.spec import LayerSpec, MetricSpec


def histograms(gradients: list[Tensor], folder: Path) -> Any:
    """Record the histograms of the output gradient of one layer that receives these gradients, a step each."""
    model = nn.Linear(1, gradients[0].shape[1], bias=False)
    with gs.watch(model, out=folder, every=1, metrics="all") as probe:
        for gradient in gradients:
            model(torch.ones(len(gradient), 1)).backward(gradient)
            probe.step()
    frame = probe.run.histograms
    return frame[frame["quantity"] == "output_grad"]


def bins(row: Any) -> dict[int, float]:
    """Entries by exponent e, of magnitudes from 2^e to 2^(e+1)."""
    counts = np.add(row["positive"], row["negative"])
    return {int(row["lowest"]) + place: float(count) for place, count in enumerate(counts) if count}


def test_gradients_over_twelve_decades_are_told_apart(tmp_path: Path) -> None:
    exponents = torch.arange(-40, 0)  # 1e-12 to 1
    gradient = (1.5 * 2.0 ** exponents.double()).float().repeat(25, 1)
    [(_, row)] = histograms([gradient], tmp_path / "run").iterrows()
    assert bins(row) == {int(exponent): 25.0 for exponent in exponents}


def test_a_late_outlier_leaves_the_bins_of_earlier_steps_as_they_were(tmp_path: Path) -> None:
    torch.manual_seed(0)
    steady = torch.randn(50, 20) * 1e-6
    wild = steady.clone()
    wild[0, 0] = 1e12
    rows = [row for _, row in histograms([steady, steady, wild], tmp_path / "run").iterrows()]
    before, after = bins(rows[1]), bins(rows[2])
    assert before == bins(rows[0])
    assert len(before) > 5
    outlier = after.pop(39)  # 2^39 < 1e12 < 2^40
    assert outlier == 1.0
    # The others are where they were, less the one replaced.
    assert sum(abs(before[key] - after.get(key, 0.0)) for key in before) == 1.0


@pytest.mark.parametrize("spread", [1e-2, 1e-4, 1e-6])
def test_values_close_together_far_from_zero_keep_their_spread(spread: float, tmp_path: Path) -> None:
    """N(0.97, tiny): bins by magnitude cannot tell them apart, so the standard deviation must."""
    z = 0.97 + spread * torch.randn(500, 40, dtype=torch.float64)
    model = nn.Linear(40, 40, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.eye(40))
    with gs.watch(model, out=tmp_path / "run", every=1, metrics="all") as probe:
        model(z).sum().backward()
        probe.step()
    assert probe.run.profile("output_mean")[1] == pytest.approx(float(z.mean()), rel=1e-9)
    assert probe.run.profile("output_std")[1] == pytest.approx(float(z.std(correction=0)), rel=1e-6)


def history(values: np.ndarray[Any, Any], metric: MetricSpec, folder: Path) -> gs.Run:
    writer = Writer(folder, metrics=[metric])
    writer.describe([LayerSpec(id=0, layer="a", call=1, depth=1), LayerSpec(id=1, layer="b", call=1, depth=2)])
    for step, value in enumerate(values):
        pair = np.array([[value], [2 * value]])
        writer.rows(step, np.arange(2, dtype=np.int32), pair, np.ones(pair.shape, np.bool_))
    writer.close()
    run = gs.load(folder)
    assert isinstance(run, gs.Run)
    return run


NORM = MetricSpec("output_grad_norm", "Output gradient norm", group="backward", scale="log")


def test_an_exploding_last_step_leaves_the_others_a_third_of_the_axis(tmp_path: Path) -> None:
    """Twelve decades of ordinary life, then one step of 1e12."""
    run = history(np.append(np.logspace(-12, 0, 200), 1e12), NORM, tmp_path / "run")
    figure = gs.figures.timeline(run, "output_grad_norm")
    assert figure.layout.yaxis.type == "log"
    drawn = np.log10(np.concatenate([np.asarray(trace.y, dtype=np.float64) for trace in figure.data]))
    drawn = drawn[np.isfinite(drawn)]
    ordinary = drawn[drawn < 6]
    assert drawn.min() == pytest.approx(-12, abs=0.01)
    assert drawn.max() > 12
    assert np.ptp(ordinary) > np.ptp(drawn) / 3


def test_colours_of_a_heatmap_are_logarithmic_where_the_metric_is(tmp_path: Path) -> None:
    run = history(np.append(np.logspace(-12, 0, 200), 1e12), NORM, tmp_path / "run")
    [drawn] = [trace for trace in gs.figures.heatmap(run, "output_grad_norm").data if trace.type == "heatmap"]
    heights = np.asarray(drawn.z, dtype=np.float64)
    early = heights[0][: len(heights[0]) // 2]
    assert np.ptp(early[np.isfinite(early)]) > 0.2 * np.ptp(heights[np.isfinite(heights)])
