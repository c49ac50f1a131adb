import math

import numpy as np
import pandas as pd
import pytest

from gradscope import figures
from gradscope.errors import InvalidValueError, UnknownNameError
from gradscope.figures.marks import ABSENT, INFINITE, NAN, PLAIN, ZERO
from gradscope.runs import Run, Runs


def test_the_profile_is_what_was_recorded(plain: Run) -> None:
    frame = figures.gradient_flow_frame(plain, 0)
    assert frame["depth"].tolist() == list(range(1, 10))
    assert frame["layer"].tolist() == [*(f"layers.{place}" for place in range(8)), "head"]
    np.testing.assert_allclose(frame["value"], 0.5 * 0.5 ** np.arange(8, -1, -1.0))
    assert (frame["mark"] == PLAIN).all()


def test_zeros_and_nan_are_marked(spoiled: Run) -> None:
    frame = figures.gradient_flow_frame(spoiled, 100)
    assert frame["mark"].tolist()[:4] == [ZERO.code, ZERO.code, NAN.code, PLAIN]
    frame = figures.gradient_flow_frame(spoiled, 100, "output_grad_zero_fraction")
    assert frame["mark"].tolist()[:4] == [PLAIN, PLAIN, NAN.code, PLAIN]


def test_the_decay_line_has_the_slope_of_the_decay(plain: Run) -> None:
    line = figures.decay_frame(plain, 0)
    assert line["depth"].tolist() == list(range(1, 9))
    np.testing.assert_allclose(line["value"], figures.gradient_flow_frame(plain, 0)["value"][:8])


def test_there_is_no_decay_line_to_an_exact_zero(spoiled: Run) -> None:
    assert figures.decay_frame(spoiled, 0).empty


def test_heatmap_cells(spoiled: Run) -> None:
    frame = figures.heatmap_frame(spoiled, "output_grad_norm")
    assert frame.steps.tolist() == list(range(0, 200, 10))
    assert frame.depths.tolist() == list(range(1, 14))
    assert (frame.codes[:2] == ZERO.code).all()
    assert frame.codes[2].tolist() == [PLAIN] * 10 + [NAN.code] * 10
    recorded = spoiled.frame("output_grad_norm").to_numpy().T[3:]
    np.testing.assert_allclose(frame.heights[3:], np.log10(recorded), rtol=1e-6)


def test_heatmap_of_many_steps_is_binned(deep: Run) -> None:
    frame = figures.heatmap_frame(deep, "output_grad_norm")
    assert frame.heights.shape == (100, 500)
    assert frame.heights.dtype == np.float32
    recorded = np.log10(deep.frame("output_grad_norm").to_numpy())
    assert frame.heights.max() == pytest.approx(recorded.max(), rel=1e-6)


def test_the_last_head_value_is_absent_not_nan(plain: Run) -> None:
    frame = figures.heatmap_frame(plain, "next_input_grad_norm")
    assert frame.depths.tolist() == list(range(1, 10))
    assert (frame.codes[-1] == ABSENT).all()
    assert (frame.codes[:-1] == PLAIN).all()


def test_ledger_in_decades(plain: Run) -> None:
    frame = figures.ledger_frame(plain, 0)
    np.testing.assert_allclose(frame["weight_gain"], np.full(9, np.log10(np.sqrt(0.5))))
    np.testing.assert_allclose(frame["activation_gain"][:-1], np.full(8, np.log10(np.sqrt(0.5))))
    assert math.isnan(frame["activation_gain"].iloc[-1])
    assert frame["activation_gain_mark"].tolist() == [PLAIN] * 8 + [-1]
    np.testing.assert_allclose(frame["cumulative"], np.arange(8, -1, -1.0) * np.log10(0.5), atol=1e-12)


def test_ledger_marks_what_is_undefined(spoiled: Run, infinite: Run) -> None:
    frame = figures.ledger_frame(spoiled, 0)
    assert frame["weight_gain_mark"].tolist()[1] == NAN.code
    frame = figures.ledger_frame(infinite, 100)
    assert NAN.code in frame["weight_gain_mark"].tolist()
    assert INFINITE.code in frame["activation_gain_mark"].tolist() + frame["path_gain_mark"].tolist()


def test_lines_are_short_and_keep_extremes(deep: Run) -> None:
    lines = figures.timeline_frame(deep, "output_grad_norm")
    recorded = deep.frame("output_grad_norm")
    assert len(lines) == 100
    for line in lines:
        assert len(line.steps) <= 302
        assert np.nanmax(line.values) == recorded[line.depth].max()
        assert np.nanmin(line.values) == recorded[line.depth].min()


def test_lines_break_at_nan(spoiled: Run) -> None:
    lines = figures.timeline_frame(spoiled, "output_grad_norm")
    assert len(lines[0].steps) == 0
    assert lines[2].steps.tolist() == list(range(0, 100, 10))
    marks = figures.marks_frame(spoiled, "output_grad_norm")
    zeros, nans = (marks[marks["mark"] == mark.code] for mark in (ZERO, NAN))
    assert zeros["step"].tolist() == list(range(0, 200, 10))
    assert zeros["layers"].unique().tolist() == [2]
    assert (zeros["low"].unique().tolist(), zeros["high"].unique().tolist()) == ([1], [2])
    assert nans["step"].tolist() == list(range(100, 200, 10))
    assert nans["low"].unique().tolist() == [3]


def test_loss_frame(plain: Run) -> None:
    frame = figures.loss_frame(plain)
    scalars = plain.scalars
    assert frame["step"].tolist() == scalars["step"].tolist()
    assert frame["value"].tolist() == scalars["value"].tolist()
    with pytest.raises(UnknownNameError) as caught:
        figures.loss_frame(plain, "accuracy")
    assert str(caught.value) == "no scalar 'accuracy'; there are: loss"


def test_sweep_cells_hold_the_median_and_its_run(sweep: Runs) -> None:
    frame = figures.sweep_map_frame(sweep)
    assert frame.attrs["axes"] == {"x": "depth", "y": "init", "facet": "activation"}
    assert len(frame) == 27
    assert (frame["runs"] == 3).all()
    cell = frame[(frame["x"] == 8) & (frame["y"] == "xavier") & (frame["facet"] == "sigmoid")].iloc[0]
    rates = {run.name: run.decay(0).rate for run in sweep.select(depth=8, init="xavier", activation="sigmoid")}
    assert cell["rate"] == np.median(list(rates.values()))
    assert rates[cell["run"]] == cell["rate"]
    zero = frame[(frame["x"] == 32) & (frame["y"] == "default") & (frame["facet"] == "sigmoid")].iloc[0]
    assert (zero["rate"], zero["mark"]) == (0.0, ZERO.code)


def test_sweep_at_the_last_step_differs(sweep: Runs) -> None:
    first, last = (figures.sweep_map_frame(sweep, last=last) for last in (False, True))
    assert not np.allclose(first["rate"], last["rate"])
    pd.testing.assert_frame_equal(first[["x", "y", "facet"]], last[["x", "y", "facet"]])


def test_sweep_of_other_keys(sweep: Runs) -> None:
    frame = figures.sweep_map_frame(sweep, x="activation", y="depth")
    assert frame.attrs["axes"] == {"x": "activation", "y": "depth", "facet": "init"}
    with pytest.raises(UnknownNameError) as caught:
        figures.sweep_map_frame(sweep, x="width")
    assert (
        str(caught.value)
        == "no configuration key 'width'; there are: activation, depth, init, seed (did you mean 'depth'?)"
    )


def test_a_figure_needs_a_run() -> None:
    with pytest.raises(InvalidValueError) as caught:
        figures.gradient_flow([])
    assert str(caught.value) == "a figure needs at least one run, and none was given"
