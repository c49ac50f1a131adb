"""The map of a sweep whose configurations are odd."""

from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
import synthetic_runs

from gradscope import figures
from gradscope.figures.sweep_cells import FAILED
from gradscope.runs import Runs, Writer


@pytest.fixture(scope="module")
def mixed(folder: Path) -> Runs:
    place = folder / "mixed"
    configs = [{"width": 4}, {"width": "4"}, {"width": "16"}, {"width": 8}]
    for index, config in enumerate(configs):
        synthetic_runs.write(
            place / str(index), depth=4, seed=index, config=config | {"init": "<b>x</b>" if index % 2 else "y"}
        )
    Writer(str(place / "dead"), metrics=synthetic_runs.METRICS, config={"width": 32, "init": "y"}).close("failed", "no")
    return synthetic_runs.open_runs(place)


def cells(figure: go.Figure) -> list[go.Heatmap]:
    return [trace for trace in figure.data if trace.type == "heatmap"]


def test_values_that_differ_in_type_only_share_a_place(mixed: Runs) -> None:
    figure = figures.sweep_map(mixed, x="width", y="init")
    assert list(figure.layout.xaxis.ticktext) == ["4", "8", "16", "32"]
    assert list(figure.layout.yaxis.ticktext) == ["&lt;b&gt;x&lt;/b&gt;", "y"]
    for trace in cells(figure):
        assert (list(trace.x), list(trace.y)) == ([0, 1, 2, 3], [0, 1])
    numbers = cells(figure)[0]
    shown = [[bool(text) for text in row] for row in numbers.text]
    assert shown == np.isfinite(np.asarray(numbers.z, dtype=float)).tolist()


def test_a_run_that_failed_before_its_first_step_says_so(mixed: Runs) -> None:
    frame = figures.sweep_map_frame(mixed, x="width", y="init")
    assert frame.set_index("x")["mark"][32] == FAILED.code
    figure = figures.sweep_map(mixed, x="width", y="init")
    assert [trace.name for trace in figure.data if trace.showlegend] == ["failed"]
    assert "failed before the first recorded step" in str(cells(figure)[-1].hovertext)


def test_the_subtitle_names_what_is_pooled(sweep: Runs) -> None:
    text = figures.sweep_map(sweep, x="depth", y="init", facet="activation").layout.title.subtitle.text
    assert text == "median of 3 runs over seed, at the first recorded step; below 1 the error signal vanishes"
    chosen = sweep.select(seed=0)
    text = figures.sweep_map(chosen).layout.title.subtitle.text
    assert text == "at the first recorded step; below 1 the error signal vanishes"


def test_numbers_grow_upwards_and_words_read_downwards(sweep: Runs) -> None:
    assert figures.sweep_map(sweep, x="init", y="depth").layout.yaxis.autorange is True
    assert figures.sweep_map(sweep).layout.yaxis.autorange == "reversed"


def test_runs_without_a_configuration_are_counted_and_failed_ones_are_not(tmp_path: Path) -> None:
    for seed in range(2):
        synthetic_runs.write(tmp_path / str(seed), depth=4, seed=0, config={})
    Writer(str(tmp_path / "dead"), metrics=synthetic_runs.METRICS, config={}).close("failed", "no")
    figure = figures.sweep_map(synthetic_runs.open_runs(tmp_path))
    assert figure.layout.title.subtitle.text == (
        "median of 2 runs with one configuration, at the first recorded step; below 1 the error signal vanishes"
    )
    assert cells(figure)[0].hovertext[0][0].endswith("median of 2 runs, 1 more without a decay rate")
