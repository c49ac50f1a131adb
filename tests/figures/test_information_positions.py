"""Layers averaged over positions beside layers seen whole: a rise between them says nothing of the estimator."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import gradscope as gs
from gradscope import figures


def network() -> tuple[nn.Sequential, torch.Tensor]:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(288, 8), nn.ReLU(), nn.Linear(8, 3)), torch.rand(80, 1, 6, 6)


def judged(source: gs.Run | object) -> dict[str, list[object]]:
    frame = figures.information_by_depth_frame(source, metrics=["input_information"])  # type: ignore[arg-type]
    return {name: frame.loc[frame["depth"] > 0, name].tolist() for name in ("depth", "value", "pooled", "failed")}


@pytest.mark.parametrize("source", ["run", "frame"])
def test_a_rise_behind_a_mean_is_no_failure(tmp_path: Path, source: str) -> None:
    """The mean of an image tells less than the image: the flattened layer behind it reads more, and rightly."""
    model, x = network()
    with gs.watch(model, out=tmp_path / "cnn", sample=(x, None)) as probe:
        model(x).sum().backward()
        probe.step()
    made = gs.load(tmp_path / "cnn") if source == "run" else gs.information_of(model, x)
    found = judged(made)
    assert found["pooled"] == [True, False, False, False]
    assert found["value"][1] > 5 * found["value"][0]  # type: ignore[operator]
    assert not any(found["failed"])
    figure = figures.information_by_depth(made, metrics=["input_information"])  # type: ignore[arg-type]
    assert figure.layout.title.subtitle.text.endswith(
        "<br>depth 1 averaged over positions, the others whole: a rise behind a mean is no failure"
    )
    line = next(trace for trace in figure.data if trace.customdata is not None)
    told = dict(zip(line.x, (row[3] for row in line.customdata), strict=True))
    assert (told[1], told[2]) == ("<br>averaged over positions", "")


def test_a_rise_from_whole_to_whole_is_still_a_failure() -> None:
    model, x = network()
    frame = gs.information_of(model, x, spatial="flatten")
    assert not judged(frame)["pooled"][0]
    frame.loc[frame["depth"] == 2, ["value", "low", "high"]] = 50.0
    assert judged(frame)["failed"] == [False, True, False, False]
    assert "positions" not in figures.information_by_depth(frame).layout.title.subtitle.text
