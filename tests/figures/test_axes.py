"""Ticks, legends and messages: what is written around the values."""

import itertools
import math
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
import synthetic_runs
from hypothesis import given
from hypothesis import strategies as st

from gradscope import figures
from gradscope.figures import axes
from gradscope.runs import Run, Writer
from gradscope.spec import MetricSpec


def notes(figure: go.Figure) -> list[str]:
    return [one.text for one in figure.layout.annotations]


@given(st.floats(-290, 290), st.floats(1e-5, 30))
def test_log_ticks_are_few_ascending_and_inside(low: float, span: float) -> None:
    ticks = axes.log_ticks(low, low + span)
    values = ticks["tickvals"]
    assert 2 <= len(values) <= 8
    assert all(one < other for one, other in itertools.pairwise(values))
    assert low - 1e-9 <= values[0] <= values[-1] <= low + span + 1e-9
    assert len(set(ticks["ticktext"])) == len(values)


def test_a_log_axis_has_our_ticks_whatever_it_spans() -> None:
    assert axes.log_axis(0.02, 0.4)["ticktext"] == ["0.02", "0.05", "0.1", "0.2"]
    assert axes.log_axis(1e-6, 1.0)["ticktext"][0] == "10<sup>−6</sup>"
    assert axes.log_axis(0.1, 0.1)["range"] == [-1.5, -0.5]


@pytest.fixture(scope="module")
def fresh(folder: Path) -> Run:
    writer = Writer(str(folder / "fresh"), metrics=synthetic_runs.METRICS, config={}, name="fresh")
    writer.describe(synthetic_runs.chain(3))
    writer.close()
    return synthetic_runs.open_run(folder / "fresh")


def test_an_empty_run_says_so_in_every_figure(fresh: Run) -> None:
    text = "run 'fresh' has no recorded step of metric 'output_grad_norm' yet"
    for draw in (figures.gradient_flow, figures.heatmap, figures.timeline, figures.ledger):
        figure = draw(fresh)
        assert [one.replace("<br>", " ") for one in notes(figure)] == [text]
        assert figure.layout.xaxis.visible is False
    assert notes(figures.loss(fresh)) == ["no scalar has been logged yet"]


def test_without_a_finite_value_the_axis_has_no_ticks(folder: Path) -> None:
    writer = synthetic_runs.write(folder / "allnan", depth=3, close=False, steps=range(0))
    shape = (4, len(synthetic_runs.METRICS))
    writer.rows(0, np.arange(4, dtype=np.int32), np.full(shape, math.nan), np.ones(shape, dtype=bool))
    writer.scalars(0, {"loss": math.nan})
    writer.close()
    run = synthetic_runs.open_run(folder / "allnan")
    for figure in (figures.gradient_flow(run), figures.timeline(run), figures.loss(run), figures.ledger(run)):
        assert set(notes(figure)) == {"no finite value to draw"}
        assert figure.layout.yaxis.showticklabels is False
        assert "NaN" in figure.layout.yaxis2.ticktext
    assert figures.heatmap(run).data[0].showscale is False


def test_a_single_step_does_not_get_steps_around_it(folder: Path) -> None:
    synthetic_runs.write(folder / "lonely", steps=range(5, 6))
    run = synthetic_runs.open_run(folder / "lonely")
    for figure in (figures.timeline(run), figures.loss(run)):
        assert list(figure.layout.xaxis.tickvals) == [5]


def test_many_runs_have_their_legend_beside_the_plot(plain: Run, spoiled: Run) -> None:
    many = figures.gradient_flow([plain] * 14)
    assert (many.layout.legend.orientation, many.layout.legend.yref) == ("v", "paper")
    assert figures.gradient_flow([plain, spoiled]).layout.legend.orientation is None
    assert figures.loss([plain] * 14).layout.legend.orientation == "v"


def test_marks_of_several_runs_are_grey_in_the_legend(plain: Run, spoiled: Run) -> None:
    figure = figures.gradient_flow([plain, spoiled], 100)
    named = [one for one in figure.data if one.name in ("exact zero", "not a number") and one.showlegend]
    greys = {one.marker.color for one in named}
    assert greys == {"#6c757d"}


def test_labels_are_escaped_and_shortened(folder: Path) -> None:
    spec = MetricSpec("odd", "Signed <b>x</b> & a very long label that goes on and on and on for ever", scale="log")
    writer = Writer(str(folder / "<b>odd"), metrics=(spec,), config={}, name="<b>odd")
    writer.describe(synthetic_runs.chain(2))
    writer.rows(0, np.arange(3, dtype=np.int32), np.ones((3, 1)), np.ones((3, 1), dtype=bool))
    writer.close()
    run = synthetic_runs.open_run(folder / "<b>odd")
    drawn = (figures.gradient_flow(run, metric="odd"), figures.heatmap(run, "odd"), figures.timeline(run, "odd"))
    for figure in drawn:
        heading = figure.layout.title
        assert heading.text.startswith("Signed &lt;b&gt;x&lt;/b&gt; &amp; a very long label that go… over")
        assert heading.subtitle.text.startswith("&lt;b&gt;odd, ")
    assert (
        figures.timeline(run, "odd").layout.yaxis.title.text
        == "Signed &lt;b&gt;x&lt;/b&gt; &amp; a very<br>long label that go…"
    )


def test_a_run_without_a_value_is_left_out_and_counted(plain: Run, fresh: Run) -> None:
    text = figures.gradient_flow([plain, plain, fresh]).layout.title.subtitle.text
    assert text == "2 runs at step 0; decay per layer; 1 without a value left out"


def test_only_negative_values_are_not_called_missing(folder: Path) -> None:
    writer = synthetic_runs.write(folder / "negative", depth=3, close=False, steps=range(0))
    shape = (4, len(synthetic_runs.METRICS))
    writer.rows(0, np.arange(4, dtype=np.int32), np.full(shape, -1.0), np.ones(shape, dtype=bool))
    writer.close()
    figure = figures.gradient_flow(synthetic_runs.open_run(folder / "negative"), metric="weight_grad_norm")
    assert notes(figure) == ["no value above zero to draw"]
