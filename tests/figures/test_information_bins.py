"""The planes side by side: one panel for each network and setting, one path for each layer."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from gradscope import figures, information
from gradscope.errors import InvalidTypeError, InvalidValueError


def frame(layers: int = 2) -> pd.DataFrame:
    random = np.random.default_rng(0)
    labels = np.arange(60) % 2
    return pd.concat(
        information.planes(
            {f"l{depth}": random.standard_normal((60, 2)) for depth in range(layers)}, labels, bins=(5, 20), unit="bits"
        ).assign(step=step, run=run)
        for run in ("tanh", "ReLU")
        for step in (0, 10, 30)
    )


def paths(figure: go.Figure) -> list[go.Scatter]:
    return [trace for trace in figure.data if trace.name.startswith("depth")]


def test_there_is_a_panel_for_each_network_and_setting_and_a_path_for_each_layer() -> None:
    given = frame()
    drawn = figures.information_planes(given)
    assert [one.text for one in drawn.layout.annotations] == ["5 bins", "20 bins", "noise of variance 0.1"]
    assert len(paths(drawn)) == 2 * 3 * 2
    assert {trace.xaxis or "x" for trace in paths(drawn)} == {"x", "x2", "x3", "x4", "x5", "x6"}
    first = given[(given["run"] == "tanh") & (given["setting"] == "5 bins") & (given["depth"] == 1)]
    assert paths(drawn)[0].x == pytest.approx(first["x"].to_numpy())
    assert paths(drawn)[0].customdata.tolist() == [0, 10, 30]
    assert [trace.name for trace in drawn.data if trace.showlegend] == [
        *("most possible: ln n across, H(Y) up", "depth 1", "depth 2")
    ]
    assert drawn.layout.title.subtitle.text == (
        "steps 0 to 30 (end: filled), n = 60; what differs between columns is the estimator"
    )
    assert drawn.layout.yaxis.title.text == "tanh: I(T;Y) (bits)"
    assert drawn.layout.yaxis4.title.text == "ReLU: I(T;Y) (bits)"


def test_the_limits_are_those_of_the_sample() -> None:
    limits = [trace for trace in figures.information_planes(frame()).data if trace.line.dash == "dash"]
    assert len(limits) == 6
    assert limits[0].x == pytest.approx((0, np.log2(60), np.log2(60)))
    assert limits[0].y == pytest.approx((1, 1, 0))


def test_the_end_of_a_path_is_filled_and_has_its_interval() -> None:
    given = frame()
    path = paths(figures.information_planes(given))[0]
    rows = given[(given["run"] == "tanh") & (given["setting"] == "5 bins") & (given["depth"] == 1)]
    last = rows.iloc[-1]
    assert path.error_x.array[:-1].tolist() == [0, 0]
    assert path.error_x.array[-1] == pytest.approx(last["x_high"] - last["x"])
    assert path.marker.size.tolist() == [4, 4, 9]
    assert path.marker.color[-1] == path.line.color


def test_one_network_at_one_step_and_the_dark_theme() -> None:
    alone = frame().query("run == 'tanh' and step == 10").drop(columns="run")
    drawn = figures.information_planes(alone, theme="dark")
    assert drawn.layout.title.subtitle.text.startswith("step 10 (end: filled)")
    assert drawn.layout.yaxis.title.text == "I(T;Y) (bits)"
    assert len(paths(drawn)) == 6


def test_many_layers_are_drawn_in_part() -> None:
    drawn = figures.information_planes(frame(layers=30))
    names = [trace.name for trace in paths(drawn) if trace.showlegend]
    assert len(names) == 12
    assert (names[0], names[-1]) == ("depth 1", "depth 30")


def test_what_is_no_such_frame_is_named() -> None:
    with pytest.raises(InvalidTypeError) as no:
        figures.information_planes([1.0])  # type: ignore[arg-type]
    assert str(no.value) == "frame is a DataFrame of gradscope.information.planes, not list"
    with pytest.raises(InvalidValueError) as lacks:
        figures.information_planes(frame()[["depth", "layer"]])
    assert str(lacks.value) == "the frame lacks the column 'step'; there are: depth, layer"
    with pytest.raises(InvalidValueError) as empty:
        figures.information_planes(frame().head(0))
    assert str(empty.value) == "the frame has no rows"
