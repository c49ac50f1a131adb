"""Steps that the optimizer did not take are marked where they lie."""

from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import synthetic_runs

from gradscope import figures
from gradscope.figures.skipped import skipped_frame
from gradscope.figures.window import Window
from gradscope.runs import Run


def written(path: Path, steps: list[int], skipped: set[int]) -> Run:
    writer = synthetic_runs.write(path, depth=3, close=False, steps=range(0))
    rng = np.random.default_rng(0)
    for step in steps:
        values = synthetic_runs.values_at(step, 3, 0.5, 0.0, rng)
        values[:, 0] = np.inf if step in skipped else values[:, 0]
        present = np.ones(values.shape, np.bool_)
        writer.rows(step, np.arange(4, dtype=np.int32), values, present, skipped=step in skipped)
    writer.close()
    return synthetic_runs.open_run(path)


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return written(folder / "overflowing", list(range(0, 500, 5)), {50, 55, 300})


def symbols(figure: go.Figure) -> Any:
    (trace,) = [one for one in figure.data if one.name == "skipped step" and one.x[0] is not None]
    return trace


def test_the_timeline_and_the_heatmap_mark_them(run: Run) -> None:
    for figure in (figures.timeline(run), figures.heatmap(run)):
        marked = symbols(figure)
        assert list(marked.x) == [50, 55, 300]
        assert list(marked.text) == ["step 50", "step 55", "step 300"]
        assert figure.layout.yaxis2.ticktext[int(marked.y[0])] == "skip"
        assert "skipped step" in [one.name for one in figure.data if one.showlegend]
        assert figure.layout.yaxis.domain[0] > figure.layout.yaxis2.domain[1]


def test_none_was_skipped(plain: Run) -> None:
    assert skipped_frame(plain, 5).empty
    for figure in (figures.timeline(plain), figures.heatmap(plain)):
        assert "skipped step" not in [one.name for one in figure.data]


def test_many_are_gathered(folder: Path) -> None:
    run = written(folder / "always", list(range(1000)), set(range(0, 1000, 2)))
    marked = symbols(figures.timeline(run))
    assert len(marked.x) == 150
    assert marked.text[0] == "4 steps from 0 to 6"


def test_only_those_that_are_seen_are_marked(run: Run) -> None:
    window = Window.of(x=[200, 400])
    for figure in (figures.timeline(run, window=window), figures.heatmap(run, window=window)):
        assert list(symbols(figure).x) == [300]


def test_where_columns_are_not_to_scale_the_mark_lies_in_its_column(folder: Path) -> None:
    run = written(folder / "uneven", [0, 1, 2, 3, 50, 500], {50})
    assert list(symbols(figures.heatmap(run)).x) == [4]
    assert list(symbols(figures.timeline(run)).x) == [50]
