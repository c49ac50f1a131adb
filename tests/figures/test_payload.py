"""What a browser gets has a size of its own, whatever the length of a run and the number of its layers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
import synthetic_runs

from gradscope import figures
from gradscope.figures.layer_lines import MOST_LINES
from gradscope.figures.ledger_bars import ledger_frame, shared_bars
from gradscope.figures.marks import INFINITE, NAN, ZERO
from gradscope.figures.window import Window
from gradscope.runs import Run

KILOBYTES: dict[str, tuple[Callable[..., go.Figure], int]] = {
    "profile": (figures.gradient_flow, 120),
    "ledger": (figures.ledger, 120),
    "waterfall": (figures.waterfall, 60),
    "heatmap": (figures.heatmap, 700),
    "timeline": (figures.timeline, 700),
    "loss": (figures.loss, 60),
}
WINDOWS = [None, Window(x=(2.0, 90.0)), Window(x=(2.0, 90.0), y=(-20.0, -1.0))]
SPIKE = (17, 333)


def flood(path: Path, layers: int, steps: int) -> Run:
    """Write a run with a spike, zeros, NaN and infinities at a few places."""
    writer = synthetic_runs.write(path, depth=layers - 1, steps=range(0), close=False)
    rng = np.random.default_rng(0)
    for block in np.array_split(np.arange(steps), max(1, steps * layers // 200_000)):
        values = np.exp(rng.normal(size=(len(block), layers, len(synthetic_runs.METRICS))) * 0.1)
        values[:, :, 0] *= 0.99 ** np.arange(layers, 0, -1.0)
        where = np.flatnonzero(block == SPIKE[0])
        values[where, SPIKE[1] % layers, 0] = 1e9
        values[block == SPIKE[0] + 8, 2, 0] = 0.0
        values[block == SPIKE[0] + 9, 3, 0] = np.nan
        values[block == steps - 2, :, 0] = np.inf
        rows = values.reshape(-1, values.shape[2])
        ids = np.tile(np.arange(layers, dtype=np.int32), len(block))
        writer.rows(np.repeat(block, layers), ids, rows, np.ones(rows.shape, np.bool_))
        for step in block.tolist():
            writer.scalars(step, {"loss": float(rng.normal())})
    writer.close()
    return synthetic_runs.open_run(path)


@pytest.fixture(scope="module", params=[(1000, 600), (12, 20_000), (5000, 40)], ids=lambda one: f"{one[0]}x{one[1]}")
def large(request: pytest.FixtureRequest, folder: Path) -> Run:
    layers, steps = request.param
    return flood(folder / f"flood{layers}", layers, steps)


@pytest.mark.parametrize("window", WINDOWS, ids=["all", "steps", "both"])
@pytest.mark.parametrize("name", KILOBYTES)
def test_a_figure_is_small(large: Run, name: str, window: Window | None) -> None:
    draw, most = KILOBYTES[name]
    assert len(draw(large, window=window).to_json()) < most * 1000


def test_what_stands_out_stays_in_sight(large: Run) -> None:
    frame = figures.heatmap_frame(large, "output_grad_norm")
    assert frame.heights.shape[0] <= 100
    assert frame.heights.shape[1] <= 500
    assert np.nanmax(frame.heights) == 9.0
    assert {ZERO.code, NAN.code, INFINITE.code} <= set(frame.codes.ravel().tolist())
    lines = figures.timeline_frame(large, "output_grad_norm")
    assert max(np.nanmax(line.values) for line in lines) == 1e9
    marks = figures.marks_frame(large, "output_grad_norm")
    assert {ZERO.code, NAN.code, INFINITE.code} == set(marks["mark"])
    assert len(marks) <= 3 * 150


def test_what_is_merged_or_thinned_is_said(folder: Path, deep: Run) -> None:
    synthetic_runs.write(folder / "merged", depth=199, steps=range(30))
    run = synthetic_runs.open_run(folder / "merged")
    text = figures.heatmap(run).layout.title.subtitle.text
    assert text == "merged, 30 recorded steps, 200 layers in 100 rows, extremes kept"
    assert "points" not in figures.timeline(run).layout.title.subtitle.text
    text = figures.heatmap(deep).layout.title.subtitle.text
    assert text == "deep, 1,200 recorded steps in 500 columns, extremes kept"
    text = figures.timeline(deep).layout.title.subtitle.text
    assert text == "deep, 1,200 steps in 300 points, extremes kept, 100 layers"
    zoomed = figures.timeline(deep, window=Window(x=(0.0, 100.0))).layout.title.subtitle.text
    assert zoomed == "deep, 100 layers"


def test_of_many_layers_some_are_drawn_and_it_is_said(large: Run) -> None:
    layers = len(large.specs)
    lines = figures.timeline_frame(large, "output_grad_norm")
    depths = [line.depth for line in lines]
    text = figures.timeline(large).layout.title.subtitle.text
    assert (depths[0], depths[-1], depths) == (1, layers, sorted(depths))
    if layers <= MOST_LINES:
        assert text.endswith(f", {layers} layers")
        assert len(lines) == layers
    else:
        assert MOST_LINES - 2 <= len(lines) <= MOST_LINES
        assert text.endswith(
            f", {layers:,} layers; {len(lines)} are drawn: first, last, least, greatest and evenly between"
        )


def test_layers_at_the_heights_seen_are_drawn(large: Run) -> None:
    if len(large.specs) <= MOST_LINES:
        return
    middle = large.profile("output_grad_norm", 5)[500]
    height = float(np.log10(middle))
    lines = figures.timeline_frame(large, "output_grad_norm", window=Window(y=(height - 0.01, height + 0.01)))
    finite = [line.values[np.isfinite(line.values)] for line in lines]
    assert all(len(one) and np.log10(one.min()) <= height + 0.01 for one in finite)


def test_merged_rows_say_which_layers_they_are(large: Run) -> None:
    labels = list(figures.heatmap(large).layout.yaxis3.labelalias.values())
    if len(large.specs) <= 100:
        assert labels[0] == "layers.0, depth 1"
    else:
        each = len(large.specs) // 100
        assert labels[0] == f"layers.0 to layers.{each - 1}, depth 1 to {each}"
        assert labels[-1].endswith(f"to head, depth {len(large.specs) - each + 1} to {len(large.specs)}")


def test_shared_bars_are_the_product_of_their_layers(large: Run) -> None:
    frame = ledger_frame(large, 5)
    bars = shared_bars(frame)
    assert bars["layers"].sum() == len(frame)
    assert len(bars) <= 400
    np.testing.assert_allclose(bars["weight_gain"].sum(), frame["weight_gain"].sum())
    near = shared_bars(frame, (3.5, 9.5))
    assert near["depth"].tolist() == (list(range(3, 11)) if len(frame) > 400 else frame["depth"].tolist())
