"""Rows of several steps may be given at once: what is stored is what one call for each step would have stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from gradscope.errors import GradscopeError, InvalidTypeError, InvalidValueError
from gradscope.runs import Run, Writer
from gradscope.spec import LayerSpec

STEPS = np.array([0, 0, 0, 10, 10, 10, 20, 20, 20])
SKIPPED = STEPS == 10
IDS = np.tile(np.arange(3, dtype=np.int32), 3)


@pytest.fixture
def opened(tmp_path: Path, metrics: Any, chain: Callable[..., list[LayerSpec]]) -> Callable[[str], Writer]:
    def open_one(name: str) -> Writer:
        writer = Writer(tmp_path / name, metrics=metrics)
        writer.describe(chain(3))
        return writer

    return open_one


def grid() -> tuple[Any, Any]:
    values = np.random.default_rng(0).normal(size=(9, 2))
    values[4, 0] = np.nan
    present = np.ones(values.shape, np.bool_)
    present[7, 1] = False
    return values, present


def stored(writer: Writer) -> pd.DataFrame:
    writer.close()
    frame: pd.DataFrame = pq.read_table(f"{writer.path}/layers").to_pandas()
    return frame


def test_one_call_stores_what_a_call_for_each_step_does(opened: Callable[[str], Writer]) -> None:
    values, present = grid()
    at_once, one_by_one = opened("at-once"), opened("one-by-one")
    at_once.rows(STEPS, IDS, values, present, skipped=SKIPPED)
    for first in (0, 3, 6):
        part = slice(first, first + 3)
        one_by_one.rows(int(STEPS[first]), IDS[part], values[part], present[part], skipped=bool(SKIPPED[first]))
    left, right = stored(at_once), stored(one_by_one)
    pd.testing.assert_frame_equal(left, right)
    assert (left["step"].tolist(), left["skipped"].tolist()) == (STEPS.tolist(), SKIPPED.tolist())
    assert Run(at_once.path).steps() == [0, 10, 20]


@pytest.mark.parametrize("kind", [np.int32, np.uint8, np.uint64])
def test_steps_of_any_whole_type(opened: Callable[[str], Writer], kind: Any) -> None:
    values, present = grid()
    writer = opened("run")
    writer.rows(STEPS.astype(kind), IDS, values, present, skipped=True)
    frame = stored(writer)
    assert (frame["step"].tolist(), frame["skipped"].tolist()) == (STEPS.tolist(), [True] * 9)


def test_what_was_given_may_be_used_again(opened: Callable[[str], Writer]) -> None:
    values, present = grid()
    steps, ids, skipped = STEPS.copy(), IDS.copy(), SKIPPED.copy()
    writer = opened("run")
    writer.rows(steps, ids, values, present, skipped=skipped)
    for one in (steps, ids, skipped, values, present):
        one[...] = 1
    frame = stored(writer)
    assert (frame["step"].tolist(), frame["id"].tolist()) == (STEPS.tolist(), IDS.tolist())
    assert frame["skipped"].tolist() == SKIPPED.tolist()


def test_no_rows_at_all(opened: Callable[[str], Writer]) -> None:
    writer = opened("run")
    none = np.zeros((0, 2))
    writer.rows(np.zeros(0, np.int64), np.zeros(0, np.int32), none, none == 0.0, skipped=np.zeros(0, np.bool_))
    writer.close()
    assert Run(writer.path).steps() == []


LARGE = np.full(9, 2**63, np.uint64)
REFUSED: list[tuple[Any, Any, type[GradscopeError], str]] = [
    (STEPS[:8], False, InvalidValueError, "step must have the shape (rows,) = (9,), not (8,)"),
    (STEPS[:, None], False, InvalidValueError, "step must have the shape (rows,) = (9,), not (9, 1)"),
    (STEPS * 1.0, False, InvalidTypeError, "step is a whole number for each row, not float64"),
    (SKIPPED, False, InvalidTypeError, "step is a whole number for each row, not bool"),
    (LARGE, False, InvalidValueError, "step is a whole number of at most 64 bits, not one of 65"),
    (STEPS, SKIPPED[:3], InvalidValueError, "skipped must have the shape (rows,) = (9,), not (3,)"),
    (STEPS, 1, InvalidTypeError, "skipped is true or false, or an array of such, not 1"),
]


@pytest.mark.parametrize(("step", "skipped", "kind", "message"), REFUSED)
def test_what_does_not_fit_is_refused_whole(
    opened: Callable[[str], Writer], step: Any, skipped: Any, kind: type[GradscopeError], message: str
) -> None:
    values, present = grid()
    writer = opened("run")
    with pytest.raises(kind) as error:
        writer.rows(step, IDS, values, present, skipped=skipped)
    assert str(error.value) == message
    writer.close()
    assert Run(writer.path).steps() == []
