"""What a view of one step reads: the row groups in which the step lies, and of those the columns it needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from gradscope.errors import InvalidTypeError, InvalidValueError
from gradscope.runs import Run, Writer
from gradscope.runs.format import Part
from gradscope.runs.spans import EVERYTHING, spans_of
from gradscope.runs.store import Store
from gradscope.spec import LayerSpec, MetricSpec

NORMS = ("output_grad_norm", "input_grad_norm", "next_input_grad_norm")
STEPS = 40


@pytest.fixture
def folder(tmp_path: Path, chain: Callable[..., list[LayerSpec]]) -> Path:
    """Write ten steps to a part; `late` has values from step 25 on, step 12 and 30 were skipped."""
    metrics = [MetricSpec(name, name) for name in (*NORMS, "late", "never")]
    writer = Writer(tmp_path / "run", metrics=metrics)
    writer.describe(chain(3))
    for step in range(STEPS):
        values = np.arange(15, dtype=np.float64).reshape(3, 5) + step / 100
        present = np.ones(values.shape, np.bool_)
        present[:, 3], present[:, 4] = step >= 25, False
        writer.rows(step, np.arange(3, dtype=np.int32), values, present, skipped=step in (12, 30))
        if step % 10 == 9:
            writer.flush()
    writer.close()
    return tmp_path / "run"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Note the part and the columns of whatever is read."""
    seen: list[tuple[str, Any]] = []
    plain = Store.parquet

    def opened(store: Store, name: str) -> Any:
        file = plain(store, name)
        for method in ("read", "read_row_groups"):
            setattr(file, method, noted(getattr(file, method), name.removesuffix(".parquet")[-1]))
        return file

    def noted(method: Callable[..., Any], part: str) -> Callable[..., Any]:
        def call(*groups: Any, columns: list[str]) -> Any:
            seen.append((part, columns))
            return method(*groups, columns=columns)

        return call

    monkeypatch.setattr(Store, "parquet", opened)
    return seen


def test_a_profile_reads_one_part_and_one_metric(folder: Path, read: list[Any]) -> None:
    assert Run(folder).profile(NORMS[0], 23).tolist() == [0.23, 5.23, 10.23]
    assert read == [("2", ["step", "rank", "id", NORMS[0]])]


def test_the_first_step_is_found_by_the_footers(folder: Path, read: list[Any]) -> None:
    run = Run(folder)
    assert run.profile("late").tolist() == [3.25, 8.25, 13.25]
    assert {part for part, _ in read} == {"2"}
    with pytest.raises(InvalidValueError) as error:
        run.profile("never")
    assert str(error.value) == "no value of 'never' has been recorded"
    assert {part for part, _ in read} == {"2"}


def test_a_ledger_and_a_decay_read_one_part(folder: Path, read: list[Any]) -> None:
    run = Run(folder)
    assert len(run.ledger(35)) == 3
    assert run.decay().layers == 2
    assert {part for part, _ in read} == {"3", "0"}


def test_what_was_read_whole_is_not_read_again(folder: Path, read: list[Any]) -> None:
    run = Run(folder)
    frame = run.frame(NORMS[0])
    assert len(read) == 4
    for step in (0, 17, 39):
        assert run.profile(NORMS[0], step).tolist() == frame.loc[step].tolist()
    assert len(read) == 4


def test_a_step_that_was_not_recorded_names_its_neighbours(folder: Path) -> None:
    run = Run(folder)
    for step, near in ((24, "25"), (99, "39"), (-1, "25")):
        with pytest.raises(InvalidValueError) as error:
            run.profile("late", step)
        assert str(error.value) == f"step {step} of 'late' is not recorded; the nearest recorded: {near}"
    with pytest.raises(InvalidTypeError):
        run.profile("late", 25.0)  # type: ignore[arg-type]


def test_skipped_steps_are_listed_and_read_where_they_are(folder: Path, read: list[Any]) -> None:
    run = Run(folder)
    assert run.skipped() == [12, 30]
    assert {part for part, _ in read} == {"1", "3"}


def test_views_of_a_step_follow_a_growing_run(folder: Path, chain: Callable[..., list[LayerSpec]]) -> None:
    run = Run(folder)
    assert run.profile("late").name == "late"
    writer = Writer(folder, metrics=list(run.metrics.values()), resume=True)
    assert writer.next_step == STEPS
    # A logged past: what comes later on disk may be an earlier step.
    values = np.full((3, 5), 7.0)
    writer.rows(-5, np.arange(3, dtype=np.int32), values, values > 0)
    writer.close()
    assert run.refresh() is True
    assert run.profile("late").tolist() == [7.0, 7.0, 7.0]
    assert run.profile("late", 39).tolist() == [3.39, 8.39, 13.39]


def test_a_part_without_statistics_may_hold_anything(folder: Path) -> None:
    whole = Run(folder).profile("late", 30)
    for path in (folder / "layers").iterdir():
        pq.write_table(pq.read_table(path), path, write_statistics=False)
    spans = spans_of(Part("a", 0, 0), pq.read_metadata(path))
    assert [(one.steps, one.ranks, one.skipped, one.empty) for one in spans] == [
        (EVERYTHING, EVERYTHING, True, frozenset())
    ]
    run = Run(folder)
    pd.testing.assert_series_equal(run.profile("late", 30), whole)
    assert (run.profile("late")[1], run.skipped()) == (3.25, [12, 30])
    assert Writer(folder, metrics=list(run.metrics.values()), resume=True).next_step == STEPS


def test_columns_read_longest_ago_are_let_go(folder: Path, monkeypatch: pytest.MonkeyPatch, read: list[Any]) -> None:
    monkeypatch.setattr("gradscope.runs.tables.REMEMBERED", 0)
    monkeypatch.setattr("gradscope.runs.layer_rows.REMEMBERED", 0)
    run = Run(folder)
    frames = {name: run.frame(name) for name in NORMS}
    for name in NORMS:
        pd.testing.assert_frame_equal(run.frame(name), frames[name])
    assert len(read) == 2 * len(NORMS) * 4
