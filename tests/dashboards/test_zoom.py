"""Figures of the part that is seen: which zooms count, what is sent again, how long a page rests."""

from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
import synthetic_runs
from dash import no_update

from gradscope.dashboards.blocks import graph
from gradscope.dashboards.gaps import MOST_LAYERS, gaps_panel
from gradscope.dashboards.pages import flow
from gradscope.dashboards.source import Source
from gradscope.dashboards.state import FlowState
from gradscope.dashboards.view import MOST_COMPARED, settle
from gradscope.dashboards.zoom import magnified
from gradscope.figures.window import ALL, Window
from gradscope.runs import Run


def plot(window: Window) -> go.Figure:
    layout = {"uirevision": "a", "meta": window.x, "yaxis3": {"matches": "y"}, "yaxis4": {}}
    return go.Figure(layout=layout)


@pytest.mark.parametrize("zoom", [None, {}, {"other": {"x": [1, 2], "of": "a"}}, {"it": {"x": [1, 2], "of": "b"}}])
def test_a_zoom_of_another_figure_does_not_count(zoom: Any) -> None:
    figure = magnified(plot, "it", zoom)
    assert (figure.layout.meta, figure.layout.xaxis.range) == (ALL.x, None)


def test_a_zoom_is_drawn_and_stated() -> None:
    figure = magnified(plot, "it", {"it": {"x": [2, 1], "y": [3, 4], "of": "a"}})
    assert figure.layout.meta == (1.0, 2.0)
    assert figure.layout.xaxis.range == (1.0, 2.0)
    assert figure.layout.yaxis.range == figure.layout.yaxis3.range == (3.0, 4.0)
    assert figure.layout.yaxis4.range is None


def test_only_what_was_zoomed_is_sent(source: Source) -> None:
    state = FlowState("plain")
    whole = flow.answer(source, state, "light")
    zoom = {"timeline": {"x": [50, 100], "of": whole["timeline"].layout.uirevision}}
    page = flow.closer(source, state, "light", zoom, ["timeline"])
    assert [name for name, one in page.items() if one is not no_update] == ["timeline"]
    assert list(page["timeline"].data[0].x) == list(range(40, 120, 10))
    again = flow.answer(source, state, "light", zoom)
    assert again["timeline"] == page["timeline"]
    assert again["heatmap"] == whole["heatmap"]


def test_a_run_that_has_gone_is_said(source: Source) -> None:
    page = flow.closer(source, FlowState("nobody"), "light", {}, ["loss"])
    assert page["hidden"] is True


def test_a_double_click_shows_all() -> None:
    config = graph("a").children.config
    assert config["doubleClick"] == "autosize"
    assert "autoScale2d" not in config["modeBarButtonsToRemove"]
    assert {"resetScale2d", "sendChartToCloud"} <= set(config["modeBarButtonsToRemove"])


def test_a_dozen_runs_are_compared_at_most(tmp_path: Path) -> None:
    for number in range(16):
        synthetic_runs.write(tmp_path / f"r{number}", depth=1, steps=range(0, 20, 10))
    names = tuple(f"r{number}" for number in range(1, 16))
    view = settle(Source(str(tmp_path)), FlowState("r0", names))
    assert list(view.others) == list(names[:MOST_COMPARED])
    assert view.remark == "of 15 runs to compare with, the first 11 are drawn"


def test_of_many_layers_that_were_not_recorded_the_first_are_listed(tmp_path: Path) -> None:
    writer = synthetic_runs.write(tmp_path / "run", close=False)
    row = {"step": 0, "code": "never_called", "text": "unused", "expected": 0, "fired": 0}
    writer.append("coverage", [row | {"layer": f"l{number}"} for number in range(1000)])
    writer.close()
    text = str(gaps_panel(Run(tmp_path / "run")).to_plotly_json())
    assert f"1000 of 1000 layers not wholly recorded; the first {MOST_LAYERS} are listed" in text
    assert "'l199'" in text
    assert "'l200'" not in text
