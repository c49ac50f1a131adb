"""What is written comes back: values, absences, words."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradscope.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from gradscope.runs import Run, Writer, load
from gradscope.spec import LayerSpec, MetricSpec

Fill = Callable[..., None]
Chain = Callable[..., list[LayerSpec]]


def run_at(path: Path) -> Run:
    run = load(path)
    assert isinstance(run, Run)
    return run


def test_absent_nan_infinity_and_zero_stay_apart(tmp_path: Path, metrics: Any, chain: Chain) -> None:
    writer = Writer(str(tmp_path / "run"), metrics=metrics)
    writer.describe(chain(4))
    values = np.array([[math.nan, 1.0], [math.inf, math.nan], [0.0, -math.inf], [7.0, 7.0]])
    present = np.array([[True, True], [True, True], [True, True], [False, False]])
    writer.rows(0, np.arange(4, dtype=np.int32), values, present, skipped=True)
    writer.close()
    run = run_at(tmp_path / "run")
    rows = run.rows("a")
    assert rows["depth"].tolist() == [1, 2, 3]  # the absent one has no row
    np.testing.assert_array_equal(rows["value"], [math.nan, math.inf, 0.0])
    assert run.frame("a").columns.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(run.profile("b").to_numpy(), [1.0, math.nan, -math.inf])
    bad = run.nonfinite
    assert bad.columns.tolist() == ["step", "rank", "depth", "layer", "skipped", "nonfinite"]
    assert bad["depth"].tolist() == [1, 2, 3]
    assert bad["nonfinite"].tolist() == [1, 2, 1]
    assert bad["skipped"].all()


@settings(max_examples=25, deadline=None)
@given(data=st.lists(st.lists(st.none() | st.floats(width=32), min_size=3, max_size=3), min_size=1, max_size=6))
def test_any_float_or_its_absence_comes_back(data: list[list[float | None]], tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("any") / "run"
    metrics = [MetricSpec("a", "A"), MetricSpec("b", "B", dtype="float32"), MetricSpec("c", "C")]
    writer = Writer(str(folder), metrics=metrics)
    ids = np.arange(len(data), dtype=np.int32)
    writer.describe([LayerSpec(id=int(one), layer=f"l{one}", call=1, depth=int(one) + 1) for one in ids])
    present = np.array([[value is not None for value in row] for row in data])
    values = np.array([[0.0 if value is None else value for value in row] for row in data])
    writer.rows(3, ids, values, present)
    writer.close()
    run = run_at(folder)
    for place, name in enumerate("abc"):
        rows = run.rows(name)
        assert rows["depth"].tolist() == [depth + 1 for depth in ids if present[depth, place]]
        np.testing.assert_array_equal(rows["value"], values[present[:, place], place])


def test_views_have_the_shapes_they_promise(tmp_path: Path, metrics: Any, chain: Chain, fill: Fill) -> None:
    writer = Writer(str(tmp_path / "run"), metrics=metrics, config={"lr": 0.1}, name="mine", every=10)
    writer.describe(chain(3))
    fill(writer, [0, 10, 20])
    writer.close()
    run = run_at(tmp_path / "run")
    frame = run.frame("a")
    assert (frame.index.name, frame.columns.name) == ("step", "depth")
    assert frame.columns.dtype.kind == frame.index.dtype.kind == "i"
    np.testing.assert_allclose(frame.to_numpy(), [[0, 0.01, 0.02], [10, 10.01, 10.02], [20, 20.01, 20.02]])
    rows = run.rows("a")
    assert rows.columns.tolist() == ["step", "depth", "layer", "metric", "value"]
    assert rows["layer"].tolist()[:3] == ["net.0", "net.1", "net.2"]
    assert set(rows["metric"]) == {"a"}
    profile = run.profile("a", step=10)
    assert (profile.name, profile.index.name) == ("a", "depth")
    pd.testing.assert_series_equal(profile, frame.loc[10].rename("a"), check_index_type=False)
    assert run.steps() == run.steps("a") == [0, 10, 20]
    assert (run.name, run.status, run.every, run.config) == ("mine", "finished", 10, {"lr": 0.1})
    assert repr(run) == "<Run 'mine': finished, 3 layers, 2 metrics>"


def test_layers_are_in_depth_order_with_parents_as_depths(tmp_path: Path, metrics: Any) -> None:
    writer = Writer(str(tmp_path / "run"), metrics=metrics)
    writer.describe(
        [
            LayerSpec(id=0, layer="head", call=1, depth=3, parents=(2, 1)),
            LayerSpec(id=1, layer="body", call=1, depth=2, parents=(2,)),
            LayerSpec(id=2, layer="body", call=2, depth=1),
        ]
    )
    writer.close()
    run = run_at(tmp_path / "run")
    assert run.layers.columns.tolist() == [
        *["depth", "layer", "call", "parents", "kind", "activation", "norm"],
        *["fan_in", "fan_out", "parameters", "id"],
    ]
    assert run.layers["depth"].tolist() == [1, 2, 3]
    assert run.layers["parents"].tolist() == [[], [1], [1, 2]]
    assert run.layers["id"].tolist() == [2, 1, 0]
    assert run.trunk == (1, 2, 3)


def test_rows_come_sorted_whatever_the_order_of_ids_and_writers(tmp_path: Path, metrics: Any, fill: Fill) -> None:
    layers = [LayerSpec(id=one, layer=f"l{one}", call=1, depth=3 - one) for one in range(3)]
    for steps in ([0, 1], [2, 3], [4]):
        writer = Writer(str(tmp_path / "run"), metrics=metrics, resume=True)
        writer.describe(layers)
        fill(writer, steps)
        writer.close()
    run = run_at(tmp_path / "run")
    rows = run.rows("a")
    assert rows["step"].tolist() == sorted(rows["step"].tolist())
    assert rows["depth"].tolist() == [1, 2, 3] * 5
    assert run.frame("a").loc[4].tolist() == pytest.approx([4.02, 4.01, 4.0])


def test_small_tables(tmp_path: Path, metrics: Any, chain: Chain) -> None:
    writer = Writer(str(tmp_path / "run"), metrics=metrics)
    writer.describe(chain(2))
    writer.scalars(1, {"loss": 2.0, "accuracy": 0.5})
    writer.scalars(2, {"loss": math.nan})
    writer.event(2, "learning rate halved")
    histogram = {
        "step": 1,
        "id": 1,
        "quantity": "weight",
        "lowest": -3,
        "positive": np.array([1, 2]),
        "negative": [0, 4],
    }
    counts = {"zeros": 5, "nonfinite": 0, "sampled": 12, "entries": 24}
    writer.append("histograms", [histogram | counts])
    writer.append("units", [{"step": 1, "id": 0, "unit": 7, "samples": 64, "flat_fraction": 0.5, "dead": None}])
    missed = {"step": 1, "layer": "net.1", "code": "missed", "expected": 2, "fired": 1, "text": "one hook did not fire"}
    missed |= {"parameters": "yes", "boundaries": "part", "units": "no"}
    writer.append("coverage", [missed])
    writer.close()
    run = run_at(tmp_path / "run")
    assert run.scalars.columns.tolist() == ["step", "name", "value"]
    assert run.scalars["name"].tolist() == ["loss", "accuracy", "loss"]
    assert (run.final("accuracy"), math.isnan(run.final("loss"))) == (0.5, True)
    assert run.events[["step", "rank", "kind", "text"]].values.tolist() == [[2, 0, "user", "learning rate halved"]]
    seen = run.histograms.iloc[0]
    assert (seen["depth"], seen["layer"], seen["lowest"], seen["entries"]) == (2, "net.1", -3, 24)
    assert (list(seen["positive"]), list(seen["negative"])) == ([1, 2], [0, 4])
    assert run.units[["depth", "unit", "samples"]].values.tolist() == [[1, 7, 64]]
    assert run.units["dead"].isna().all()
    assert run.coverage.iloc[0].to_dict() == {"rank": 0} | missed


def test_a_run_without_rows_has_empty_views(tmp_path: Path, metrics: Any) -> None:
    Writer(str(tmp_path / "run"), metrics=metrics).close()
    run = run_at(tmp_path / "run")
    assert run.frame("a").shape == (0, 0)
    assert run.rows("a").columns.tolist() == ["step", "depth", "layer", "metric", "value"]
    assert (run.steps(), run.trunk, len(run.layers), len(run.nonfinite)) == ([], (), 0, 0)
    for table in (run.scalars, run.events, run.coverage, run.histograms, run.units):
        assert len(table) == 0
        assert "step" in table.columns
    with pytest.raises(InvalidValueError) as error:
        run.profile("a")
    assert str(error.value) == "no value of 'a' has been recorded"


def test_errors_name_the_choices_and_the_neighbours(tmp_path: Path, metrics: Any, chain: Chain, fill: Fill) -> None:
    writer = Writer(str(tmp_path / "run"), metrics=metrics)
    writer.describe(chain(3))
    fill(writer, [0, 10])
    writer.scalars(0, {"loss": 1.0})
    writer.close()
    run = run_at(tmp_path / "run")
    with pytest.raises(UnknownNameError) as name:
        run.frame("c")
    assert str(name.value) == "no metric 'c'; there are: a, b"
    with pytest.raises(UnknownNameError) as scalar:
        run.final("los")
    assert str(scalar.value) == "no scalar 'los'; there are: loss (did you mean 'loss'?)"
    neighbours = {5: "0 and 10", 11: "10", -1: "0"}
    for step, near in neighbours.items():
        with pytest.raises(InvalidValueError) as error:
            run.profile("a", step)
        assert str(error.value) == f"step {step} of 'a' is not recorded; the nearest recorded: {near}"
    with pytest.raises(UnknownNameError) as decay:
        run.decay()
    assert str(decay.value) == "no metric 'output_grad_norm'; there are: a, b"


def test_a_step_is_a_whole_number(recorded: Callable[..., Run]) -> None:
    run = recorded([1.0, 2.0, 3.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0])
    views: list[Callable[[Any], object]] = [lambda step: run.profile("output_grad_norm", step), run.decay, run.ledger]
    for view in views:
        for step in (0.5, 0.0, True, "1", np.float64(0.0)):
            with pytest.raises(InvalidTypeError) as error:
                view(step)
            assert str(error.value) == f"step is a whole number, not {step!r}"
        view(np.int64(0))


def test_rows_of_the_wrong_shape_are_refused(tmp_path: Path, metrics: Any) -> None:
    writer = Writer(str(tmp_path / "run"), metrics=metrics)
    with pytest.raises(InvalidValueError) as error:
        writer.rows(0, np.zeros(3, np.int32), np.zeros((3, 1)), np.ones((3, 1), np.bool_))
    assert str(error.value) == (
        "values and present must have the shape (rows, metrics) = (3, 2), not (3, 1) and (3, 1)"
    )


def test_config_holds_anything(tmp_path: Path, metrics: Any) -> None:
    config = {"lr": np.float32(0.5), "best": math.inf, "device": Path("/dev/x"), "widths": (3, 4), "on": True}
    Writer(str(tmp_path / "run"), metrics=metrics, config=config, environment={"nan": math.nan}).close()
    run = run_at(tmp_path / "run")
    assert run.config == {"lr": 0.5, "best": "inf", "device": "/dev/x", "widths": [3, 4], "on": True}
    assert run.environment == {"nan": "nan"}


def test_metric_specs_come_back_whole(tmp_path: Path) -> None:
    spec = MetricSpec("a", "A", scale="log", bounds=(0.0, None), degree=1.0, signals=("z",), parameters={"k": 3})
    Writer(str(tmp_path / "run"), metrics=[spec]).close()
    assert run_at(tmp_path / "run").metrics == {"a": spec}
