"""What was not recorded stays empty, and steps at uneven distances are not stretched."""

from pathlib import Path

import numpy as np
import pytest
import synthetic_runs

from gradscope import figures
from gradscope.figures.marks import ABSENT, PLAIN
from gradscope.runs import Run


@pytest.fixture(scope="module")
def sparse(folder: Path) -> Run:
    """A run in which only the layers at even depths have a saturation, as those before an activation."""
    writer = synthetic_runs.write(folder / "sparse", depth=6, close=False, steps=range(0))
    values = synthetic_runs.values_at(0, 6, 0.5, 0.0, np.random.default_rng(0))
    present = np.ones(values.shape, dtype=bool)
    present[0::2, synthetic_runs.NAMES.index("saturation")] = False
    for step in (0, 1, 2, 3, 4, 50, 100):
        writer.rows(step, np.arange(7, dtype=np.int32), values, present)
    writer.close()
    return synthetic_runs.open_run(folder / "sparse")


def test_layers_without_a_value_keep_their_place(sparse: Run) -> None:
    frame = figures.gradient_flow_frame(sparse, 0, "saturation")
    assert frame["depth"].tolist() == list(range(1, 8))
    assert frame["mark"].tolist() == [ABSENT, PLAIN] * 3 + [ABSENT]
    profile = figures.gradient_flow(sparse, 0, "saturation").data[0]
    assert np.isnan(np.asarray(profile.y, dtype=float)).tolist() == [True, False] * 3 + [True]
    assert not profile.connectgaps
    cells = figures.heatmap_frame(sparse, "saturation")
    assert cells.depths.tolist() == list(range(1, 8))
    assert cells.codes[0].tolist() == [ABSENT] * 7
    assert np.isnan(cells.heights[0::2]).all()
    assert [line.depth for line in figures.timeline_frame(sparse, "saturation")] == [2, 4, 6]


def test_uneven_steps_get_columns_of_one_width(sparse: Run, plain: Run) -> None:
    figure = figures.heatmap(sparse, "saturation")
    assert list(figure.data[0].x) == list(range(7))
    assert list(figure.layout.xaxis.ticktext) == ["0", "1", "2", "3", "4", "50", "100"]
    assert figure.layout.xaxis.labelalias["5"] == "50"
    assert figure.layout.title.subtitle.text.endswith("7 recorded steps, at uneven distances: axis not to scale")
    assert figures.heatmap(plain, "saturation").layout.xaxis.ticktext is None


def test_a_single_step_has_a_tick_alone(folder: Path) -> None:
    synthetic_runs.write(folder / "one_step", steps=range(5, 6))
    run = synthetic_runs.open_run(folder / "one_step")
    assert list(figures.heatmap(run).layout.xaxis.ticktext) == ["5"]
    assert "one recorded step" in figures.heatmap(run).layout.title.subtitle.text


def test_depths_have_ticks_from_one_on(deep: Run) -> None:
    for axis in (figures.gradient_flow(deep).layout.xaxis, figures.heatmap(deep).layout.yaxis):
        assert (axis.tick0, axis.dtick) == (1, 10)


def test_a_value_between_marks_is_a_point(folder: Path) -> None:
    writer = synthetic_runs.write(folder / "islands", depth=1, close=False, steps=range(0))
    values = np.ones((2, len(synthetic_runs.METRICS)))
    for step in range(5):
        bad = values if step % 2 else np.full_like(values, np.nan)
        writer.rows(step, np.arange(2, dtype=np.int32), bad, np.ones(values.shape, dtype=bool))
        writer.scalars(step, {"loss": bad[0, 0]})
    writer.close()
    run = synthetic_runs.open_run(folder / "islands")
    for trace in (figures.timeline(run).data[0], figures.loss(run).data[0]):
        assert trace.mode == "lines+markers"
        assert [size for size, value in zip(trace.marker.size, trace.y, strict=True) if value == value] == [6, 6]
