from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gradscope.errors import UnknownNameError
from gradscope.runs import Run, Runs, Writer, load
from gradscope.spec import LayerSpec, MetricSpec

METRICS = [MetricSpec("output_grad_norm", "|dL/dz|")]
Chain = Callable[..., list[LayerSpec]]


@pytest.fixture
def folder(tmp_path: Path, chain: Chain) -> Path:
    for activation, rate in {"relu": 1.0, "tanh": 0.5}.items():
        for depth in (2, 8):
            config = {"activation": activation, "depth": depth, "widths": (4, 4)}
            writer = Writer(str(tmp_path / activation / f"depth-{depth}"), metrics=METRICS, config=config)
            writer.describe(chain(depth + 1))
            values = rate ** np.arange(depth, -1, -1.0)[:, None]
            writer.rows(0, np.arange(depth + 1, dtype=np.int32), values, np.ones(values.shape, np.bool_))
            writer.scalars(0, {"loss": 2.0})
            writer.scalars(1, {"loss": depth / 10})
            writer.close()
    return tmp_path


def runs_at(path: Path) -> Runs:
    runs = load(path)
    assert isinstance(runs, Runs)
    return runs


def test_a_folder_of_runs(folder: Path) -> None:
    runs = runs_at(folder)
    assert runs.names == ["relu/depth-2", "relu/depth-8", "tanh/depth-2", "tanh/depth-8"]
    assert len(runs) == len(list(runs)) == 4
    assert runs["tanh/depth-8"].config["depth"] == 8
    assert "tanh/depth-8" in runs
    assert repr(runs) == f"<Runs '{folder}': 4>"
    assert isinstance(load(folder / "tanh" / "depth-2"), Run)
    with pytest.raises(UnknownNameError) as error:
        runs["tanh/depth-9"]
    assert str(error.value) == (
        "no run 'tanh/depth-9'; there are: relu/depth-2, relu/depth-8, tanh/depth-2, tanh/depth-8 "
        "(did you mean 'tanh/depth-8'?)"
    )


def test_select(folder: Path) -> None:
    runs = runs_at(folder)
    assert runs.select(activation="tanh").names == ["tanh/depth-2", "tanh/depth-8"]
    assert runs.select(activation="tanh", depth=8).names == ["tanh/depth-8"]
    assert runs.select(depth=[2, 3]).names == ["relu/depth-2", "tanh/depth-2"]
    assert len(runs.select(widths=(4, 4))) == 4
    assert runs.select(depth=99).names == []
    assert runs.select(depth="8").names == []
    with pytest.raises(UnknownNameError) as error:
        runs.select(dept=2)
    assert str(error.value) == (
        "no configuration key 'dept'; there are: activation, depth, widths (did you mean 'depth'?)"
    )


@pytest.mark.parametrize(
    "depths",
    [[2, 3], (2, 3), {2, 3}, frozenset([2]), range(2, 4), np.array([2, 3]), pd.Series([2, 3]), {2: "two"}.keys()],
    ids=lambda one: type(one).__name__,
)
def test_any_collection_of_values_means_any_of_them(folder: Path, depths: Any) -> None:
    assert runs_at(folder).select(depth=depths).names == ["relu/depth-2", "tanh/depth-2"]
    assert runs_at(folder).select(depth=np.int64(8), activation="relu").names == ["relu/depth-8"]
    assert len(runs_at(folder).select(widths=[(4, 4), (8, 8)])) == 4


def spoil(folder: Path, name: str, table: str) -> str:
    (part,) = (folder / name / table).iterdir()
    part.write_bytes(b"")
    return f"{folder}/{name}/{table}/{part.name} is not a readable part: Parquet file size is 0 bytes"


def test_a_corrupt_part_does_not_take_the_table_down(folder: Path) -> None:
    bad_layers = spoil(folder, "relu/depth-2", "layers")
    bad_scalars = spoil(folder, "tanh/depth-2", "scalars")
    runs = runs_at(folder)
    for shown in (runs, runs.select(depth=[2, 8])):
        table = shown.table().set_index("name")
        np.testing.assert_allclose(table["decay"], [math.nan, 1.0, 0.5, 0.5])
        np.testing.assert_allclose(table["final_loss"], [0.2, 0.8, math.nan, 0.8])
        assert table["status"].tolist() == ["finished"] * 4
        told = {name: str(error) for name, error in shown.broken.items()}
        assert told == {"relu/depth-2": bad_layers, "tanh/depth-2": bad_scalars}
    assert list(runs.select(activation="relu").broken) == ["relu/depth-2"]


def test_a_run_that_has_gone_does_not_stop_the_others(folder: Path) -> None:
    runs = runs_at(folder)
    (folder / "relu" / "depth-2" / "run.json").unlink()
    writer = Writer(folder / "gelu", metrics=METRICS)
    assert runs.refresh() is True
    assert "gelu" in runs
    gone = f"'{folder}/relu/depth-2' holds no run: it has no run.json"
    assert {name: str(error) for name, error in runs.broken.items()} == {"relu/depth-2": gone}
    writer.close()


def test_table(folder: Path) -> None:
    table = runs_at(folder).table()
    assert table.columns.tolist() == [
        *["name", "activation", "depth", "widths", "decay", "decay_low", "decay_high", "decades"],
        *["status", "final_loss"],
    ]
    assert table["name"].tolist() == ["relu/depth-2", "relu/depth-8", "tanh/depth-2", "tanh/depth-8"]
    np.testing.assert_allclose(table["decay"], [1.0, 1.0, 0.5, 0.5])
    np.testing.assert_allclose(table["decay_high"], [math.nan, 1.0, math.nan, 0.5])
    np.testing.assert_allclose(table["decades"], [0.0, 0.0, -math.log10(2), -7 * math.log10(2)], atol=1e-15)
    assert table["status"].tolist() == ["finished"] * 4
    assert table["final_loss"].tolist() == [0.2, 0.8, 0.2, 0.8]


def test_table_of_runs_that_recorded_other_things(tmp_path: Path, chain: Chain) -> None:
    writer = Writer(str(tmp_path / "a"), metrics=[MetricSpec("a", "A")], config={"name": "x", "status": 3, "k": 1})
    writer.describe(chain(2))
    writer.close()
    Writer(str(tmp_path / "b"), metrics=METRICS).close()
    table = runs_at(tmp_path).table()
    assert table.columns.tolist() == [
        *["name", "config.name", "config.status", "k", "decay", "decay_low", "decay_high", "decades"],
        *["status", "final_loss"],
    ]
    assert table[["decay", "decades", "final_loss"]].isna().all(axis=None)


def test_refresh_finds_new_runs(folder: Path) -> None:
    runs = runs_at(folder)
    assert runs.refresh() is False
    writer = Writer(str(folder / "gelu"), metrics=METRICS)
    assert runs.refresh() is True
    assert runs.names[0] == "gelu"
    writer.event(0, "hello")
    assert runs.refresh() is False
    writer.close()
    assert runs.refresh() is True
    assert runs["gelu"].status == "finished"


def test_runs_are_searched_three_levels_down_and_not_inside_runs(folder: Path) -> None:
    for place in ("x/y/z", "x/y/z/deeper", "p/q/r/s", "relu/depth-2/inner"):
        Writer(str(folder / place), metrics=METRICS).close()
    names = runs_at(folder).names
    assert "x/y/z" in names
    assert not {"x/y/z/deeper", "p/q/r/s", "relu/depth-2/inner"} & set(names)
