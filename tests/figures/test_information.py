"""Figures of information: what they draw of a run and of a frame, and what they call a failure of the estimator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from torch import nn

import gradscope as gs
from gradscope import figures
from gradscope.errors import InvalidValueError, UnknownNameError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> gs.Run:
    torch.manual_seed(0)
    x, y = torch.randn(80, 6), torch.arange(80) % 3
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    out = tmp_path_factory.mktemp("runs") / "small"
    with gs.watch(model, optimizer, out=out, every=2, sample=(x, y), information_every=3) as probe:
        for _ in range(7):
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            probe.log(loss=loss)
    found = gs.load(out)
    assert isinstance(found, gs.Run)
    return found


def names(figure: go.Figure) -> list[str]:
    return [trace.name for trace in figure.data if trace.showlegend is not False and trace.name]


def test_information_by_depth_shows_values_intervals_and_how_they_came_about(run: gs.Run) -> None:
    figure = figures.information_by_depth(run, 3)
    assert names(figure) == ["Information about the input", "Information about the label"]
    assert figure.layout.title.subtitle.text == ("small, step 3; kde_bounds, samples = 80, rows = 80, noise_var = 0.1")
    frame = figures.information_by_depth_frame(run, 3)
    stored = run.profile("input_information", 3)
    rows = frame[frame["metric"] == "input_information"]
    assert rows["value"].tolist() == stored.tolist()
    assert rows["low"].tolist() == run.profile("input_information_low", 3).tolist()
    assert rows["depth"].tolist() == [1, 2, 3]


def test_the_first_measured_step_is_shown_unless_one_is_named(run: gs.Run) -> None:
    assert "step 0;" in figures.information_by_depth(run).layout.title.subtitle.text
    with pytest.raises(InvalidValueError, match="step 4"):
        figures.information_by_depth(run, 4)


def test_the_most_that_so_many_samples_can_show_is_drawn_where_it_is_near() -> None:
    """Of 100 samples, ln 100 = 4.6052 nats: the line is there from nine tenths of it on and not below."""
    for value, expected in ((4.2, ["ln 100: the most that 100 samples can show"]), (4.1, [])):
        figure = figures.information_by_depth(by_hand([value, 1.0], 0.1))
        assert [one.text for one in figure.layout.annotations] == expected
        assert [one.y0 for one in figure.layout.shapes] == ([pytest.approx(np.log(100))] if expected else [])


def test_the_ceiling_of_a_run_is_that_of_the_rows_compared(run: gs.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not figures.information_by_depth(run, 0).layout.annotations
    monkeypatch.setattr("gradscope.figures.information.NEAR", 0.8)
    (said,) = figures.information_by_depth(run, 0).layout.annotations
    assert said.text == "ln 80: the most that 80 samples can show"
    assert not figures.information_by_depth(run, 0, ("label_information",)).layout.annotations


def by_hand(values: list[float], half: float) -> pd.DataFrame:
    depths = range(len(values))
    return pd.DataFrame(
        {
            "depth": depths,
            "layer": [f"l{depth}" for depth in depths],
            "metric": "input_information",
            "value": values,
            "low": np.subtract(values, half),
            "high": np.add(values, half),
            "unit": "nats",
            "estimator": "ksg",
            "n": 100,
            "parameters": "k=3",
            "warning": "",
        }
    )


@pytest.mark.parametrize(("half", "failed"), [(0.05, [False, False, True, False]), (0.2, [False, False, False, False])])
def test_what_exceeds_the_layer_before_beyond_its_interval_is_a_failed_estimate(
    half: float, failed: list[bool]
) -> None:
    frame = by_hand([2.0, 1.0, 1.3, 0.5], half)
    assert figures.information_by_depth_frame(frame, metrics=["input_information"])["failed"].tolist() == failed
    drawn = figures.information_by_depth(frame, metrics=["input_information"])
    assert ("estimator failure: above the layer before" in names(drawn)) == any(failed)
    assert drawn.layout.title.subtitle.text == "ksg, k=3, n = 100"


def test_a_layer_that_is_not_a_function_of_the_one_before_alone_is_not_judged(tmp_path: Path) -> None:
    """Behind a skip, a layer may know more than the branch it came through."""

    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first = torch.tanh(self.one(x))
            return self.three(first + 1e-3 * torch.sigmoid(1e-3 * self.two(first)))  # type: ignore[no-any-return]

    model, x = Skip(), torch.randn(60, 6)
    with gs.watch(model, out=tmp_path / "run", sample=(x, None)) as probe:
        model(x).sum().backward()
        probe.step()
    run = gs.load(tmp_path / "run")
    assert isinstance(run, gs.Run)
    assert not figures.information_by_depth_frame(run, metrics=["input_information"])["failed"].any()


def test_the_plane_has_a_path_for_every_layer(run: gs.Run) -> None:
    frame = figures.information_plane_frame(run)
    assert frame.groupby("depth")["step"].apply(list).tolist() == [[0, 3, 6]] * 3
    assert frame.loc[(frame["depth"] == 2) & (frame["step"] == 6), "x"].item() == pytest.approx(
        run.profile("input_information", 6)[2]
    )
    figure = figures.information_plane(run)
    assert names(figure) == ["depth 1", "depth 2", "depth 3"]
    assert figure.layout.title.subtitle.text == (
        "small; kde_bounds, samples = 80, rows = 80, noise_var = 0.1; steps 0 to 6 (end: filled)"
    )
    ends = [trace for trace in figure.data if trace.error_x.array is not None]
    assert len(ends) == 3
    assert all(trace.error_y.arrayminus[0] > 0 for trace in ends)


def test_a_run_without_a_sample_says_what_to_do(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    with gs.watch(model, out=tmp_path / "run") as probe:
        model(torch.randn(4, 3)).sum().backward()
        probe.step()
    bare = gs.load(tmp_path / "run")
    assert isinstance(bare, gs.Run)
    for figure in (figures.information_by_depth(bare), figures.information_plane(bare)):
        text = figure.layout.annotations[0].text.replace("<br>", " ")
        assert text == "this run holds no information metrics: watch with sample=(x, y)"


def test_unknown_metrics_are_named(run: gs.Run) -> None:
    with pytest.raises(UnknownNameError, match=r"^no metric 'label_accuracy'; there are: "):
        figures.information_by_depth_frame(run, metrics=["label_accuracy"])
    with pytest.raises(InvalidValueError, match=r"^the frame holds none of effective_rank$"):
        figures.information_by_depth_frame(by_hand([1.0], 0.1), metrics=["effective_rank"])
