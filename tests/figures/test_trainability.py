"""The map of depth and weight variance: which cell holds what, and the depth scale of theory over it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic_runs

from gradscope import figures
from gradscope.errors import InvalidValueError
from gradscope.figures.depth_scale import depth_scale_frame, edge_of_chaos
from gradscope.figures.trainability_cells import common_setting
from gradscope.runs import Runs, Writer


def write(folder: Path, scalars: dict[str, list[float]] | None = None, **changes: Any) -> Runs:
    """Write a sweep whose accuracy is 1 / depth, and two runs that have no place in it."""
    for depth in (2, 10, 40):
        for weight_var in (1.0, 2.0, 4.0):
            config = {"depth": depth, "weight_var": weight_var, "activation": "tanh", "bias_var": 0.05} | changes
            given = scalars or {"loss": [2.0, 1.0 / depth], "test_accuracy": [1.0 / depth]}
            put(folder / f"{depth},{weight_var}", config, given)
    put(folder / "aside", {"depth": 3, "weight_var": None}, {"loss": [1.0]})
    return synthetic_runs.open_runs(folder)


def put(path: Path, config: dict[str, Any], scalars: dict[str, list[float]]) -> None:
    writer = Writer(str(path), metrics=synthetic_runs.METRICS, config=config, name=path.name)
    for name, values in scalars.items():
        for step, value in enumerate(values):
            writer.scalars(step, {name: value})
    writer.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return write(tmp_path_factory.mktemp("trainability") / "sweep")


def test_a_cell_for_every_depth_and_variance(runs: Runs) -> None:
    frame = figures.trainability_frame(runs)
    assert (len(frame), frame.attrs) == (9, {"value": "test_accuracy", "left_out": 1})
    grid = frame.pivot(index="depth", columns="weight_var", values="value")
    assert grid.loc[10].tolist() == pytest.approx([0.1, 0.1, 0.1])
    assert frame["run"][0] == "2,1.0"


def test_seeds_share_a_cell_with_their_median(tmp_path: Path) -> None:
    for seed, reached in enumerate((0.1, 0.9, 0.5)):
        put(tmp_path / str(seed), {"depth": 3, "weight_var": 2, "seed": seed}, {"accuracy": [reached]})
    frame = figures.trainability_frame(synthetic_runs.open_runs(tmp_path))
    assert frame[["weight_var", "depth", "value", "runs"]].values.tolist() == [[2.0, 3.0, 0.5, 3.0]]
    assert frame.attrs["value"] == "accuracy"


def test_progress_of_the_loss_stands_in_for_an_accuracy(tmp_path: Path) -> None:
    frame = figures.trainability_frame(write(tmp_path / "a", {"loss": [2.0, 0.5]}))
    assert frame.attrs["value"] == "progress"
    np.testing.assert_allclose(frame["value"], 0.75)


def test_the_depth_scale_lies_over_the_cells(runs: Runs) -> None:
    figure = figures.trainability_map(runs)
    lines = [trace for trace in figure.data if trace.type == "scatter" and trace.hovertemplate]
    assert [trace.name for trace in lines] == ["6 ξ<sub>c</sub> of theory", "ξ<sub>c</sub>"]
    scale = np.interp([2.5, 4.0], lines[1].x, lines[1].y)
    np.testing.assert_allclose(scale, [11.796, 6.9803], rtol=1e-3)
    np.testing.assert_allclose(np.interp([1.5], lines[0].x, lines[0].y), 6 * 15.791, rtol=1e-2)
    assert figure.layout.title.subtitle.text == "Accuracy, held out; 1 run left out<br>tanh, bias variance 0.05"
    cells = figure.data[0]
    assert (cells.zmin, cells.zmax) == (0.0, 1.0)
    assert list(cells.x) == [0.5, 1.5, 3.0, 5.0]
    assert cells.customdata[1][0] == "10,1.0"
    assert cells.text[1][0] == "depth 10, weight variance 1<br>Accuracy, held out 0.1"


def test_the_scale_is_infinite_at_the_edge_of_chaos_alone() -> None:
    frame = depth_scale_frame("tanh", 0.05, 1.0, 4.0)
    edge = edge_of_chaos("tanh", 0.05)
    assert frame.loc[np.isinf(frame["xi_c"]), "weight_var"].tolist() == [edge]
    below = frame[frame["weight_var"] < edge]["xi_c"]
    assert below.is_monotonic_increasing


def test_no_line_is_drawn_for_what_theory_does_not_know(tmp_path: Path, runs: Runs) -> None:
    assert common_setting(list(runs)[:3]) == (("tanh", 0.05), "")
    figure = figures.trainability_map(write(tmp_path / "a", norm="batch"))
    assert [trace.type for trace in figure.data] == ["heatmap"]
    text = "no depth scale is drawn: it is that of plain chains, without normalization and skips"
    assert text in figure.layout.title.subtitle.text
    plain = figures.trainability_map(runs, theory=False)
    assert [trace.type for trace in plain.data] == ["heatmap"]
    figure = figures.trainability_map(write(tmp_path / "b", activation="swoosh"))
    text = "no depth scale is drawn: theory knows no activation 'swoosh'"
    assert text in figure.layout.title.subtitle.text


def test_runs_without_a_place_or_a_value_are_an_error(tmp_path: Path, sweep: Runs, runs: Runs) -> None:
    with pytest.raises(InvalidValueError) as caught:
        figures.trainability_map(sweep)
    assert str(caught.value) == "no run has numbers for 'depth' and 'weight_var' in its configuration"
    with pytest.raises(InvalidValueError) as caught:
        figures.trainability_map(runs, value="f1")
    assert str(caught.value) == "no run has a value of 'f1'"
