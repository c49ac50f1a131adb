"""What is zoomed into is drawn from the recorded values, in as much detail as fits, with ticks of its own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic_runs

from gradscope import figures
from gradscope.figures import axes
from gradscope.figures.window import ALL, Window, seen
from gradscope.runs import Run

FIRST, LAST = 3000, 3200


@pytest.fixture(scope="module")
def close() -> Window:
    return Window.of(x=[FIRST + 0.5, LAST - 0.5])


def test_a_line_shows_every_step_of_a_narrow_window(deep: Run, close: Window) -> None:
    recorded = deep.frame("output_grad_norm")
    inside = recorded.loc[FIRST:LAST]
    lines = figures.timeline_frame(deep, "output_grad_norm", window=close)
    assert len(lines) == 100
    for line in lines:
        assert line.steps.tolist() == list(range(FIRST, LAST + 1, 5))  # one more on either side: lines lead there
        assert line.values.tolist() == inside[line.depth].tolist()
    assert len(figures.timeline_frame(deep, "output_grad_norm")[0].steps) < len(recorded)


def test_a_heatmap_shows_every_cell_of_a_narrow_window(deep: Run, close: Window) -> None:
    window = Window(close.x, (20.2, 29.8))
    frame = figures.heatmap_frame(deep, "output_grad_norm", window=window)
    assert frame.steps.tolist() == list(range(FIRST, LAST + 1, 5))
    assert frame.depths.tolist() == list(range(20, 31))
    expected = np.log10(deep.frame("output_grad_norm").loc[FIRST:LAST, 20:30].to_numpy().T)
    np.testing.assert_allclose(frame.heights, expected, rtol=1e-6)


def test_a_loss_shows_every_value_of_a_narrow_window(deep: Run, close: Window) -> None:
    frame = figures.loss_frame(deep, between=close.x)
    assert frame["step"].tolist() == list(range(FIRST, LAST + 1, 5))
    assert list(figures.loss(deep, window=close).data[0].x) == frame["step"].tolist()


def test_a_window_without_a_value_draws_its_neighbours(deep: Run) -> None:
    window = Window.of(x=[3001, 3003])
    assert figures.timeline_frame(deep, "output_grad_norm", window=window)[0].steps.tolist() == [3000, 3005]
    assert figures.heatmap_frame(deep, "output_grad_norm", window=window).steps.tolist() == [3000, 3005]
    figures.timeline(deep, window=Window.of(x=[-90, -80]))
    figures.heatmap(deep, window=Window.of(x=[9e9, 1e10], y=[5000, 6000]))


def test_a_window_of_columns_that_are_not_to_scale_counts_them(folder: Path) -> None:
    writer = synthetic_runs.write(folder / "powers", depth=2, steps=range(0), close=False)
    rng = np.random.default_rng(0)
    for step in (2**power for power in range(20)):
        synthetic_runs.add_step(writer, step, 2, 0.5, 0.0, rng)
    writer.close()
    run = synthetic_runs.open_run(folder / "powers")
    figure = figures.heatmap(run, window=Window.of(x=[9.6, 12.4]))
    assert list(figure.data[0].x) == [9, 10, 11, 12, 13]
    assert list(figure.layout.xaxis.ticktext) == ["1,024", "2,048", "4,096"]
    assert figure.layout.xaxis.labelalias["12"] == "4,096"


@pytest.mark.parametrize("y", [(-4.02, -4.01), (-3.9, -3.1), (-30.0, -3.0)])
def test_log_ticks_follow_the_window(deep: Run, y: tuple[float, float]) -> None:
    for draw in (figures.timeline, figures.gradient_flow):
        figure = draw(deep, window=Window(y=y))
        inside = [one for one in np.log10(figure.layout.yaxis.tickvals) if y[0] - 1e-9 <= one <= y[1] + 1e-9]
        assert len(inside) >= 2


def test_depth_ticks_follow_the_window(deep: Run) -> None:
    near = Window(x=(40.0, 48.0), y=(40.0, 48.0))
    assert figures.gradient_flow(deep, window=near).layout.xaxis.dtick == 1
    assert figures.ledger(deep, window=near).layout.xaxis.dtick == 1
    assert figures.heatmap(deep, window=near).layout.yaxis.dtick == 1
    assert axes.depth_ticks(1000, (0.0, 100.0)) == {"tick0": 1, "dtick": 10}


def test_steps_are_whole_in_a_narrow_window(deep: Run) -> None:
    assert figures.timeline(deep, window=Window(x=(3000.0, 3004.0))).layout.xaxis.dtick == 1
    assert figures.timeline(deep).layout.xaxis.dtick is None


@pytest.mark.parametrize("given", [None, [], [1], ["a", "b"], "ab", [1, None], [1, float("nan")], [2, 2], [0, 1, 2]])
def test_what_is_no_range_shows_all(given: Any) -> None:
    assert Window.of(given, given) == ALL


def test_seen_has_a_neighbour_on_either_side() -> None:
    places = np.array([0, 10, 20, 30])
    assert seen(places, (10, 20)) == slice(0, 4)
    assert seen(places, (-9, -1)) == slice(0, 1)
    assert seen(np.zeros(0), (0, 1)) == slice(0, 0)
