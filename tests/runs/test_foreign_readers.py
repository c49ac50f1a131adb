"""A run can be read without gradscope."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from gradscope.runs import Writer
from gradscope.runs.format import TABLES, schema_of
from gradscope.spec import LayerSpec


@pytest.fixture
def folder(tmp_path: Path, metrics: Any, chain: Callable[..., list[LayerSpec]]) -> Path:
    writer = Writer(str(tmp_path / "run"), metrics=metrics)
    writer.describe(chain(3))
    ids = np.arange(3, dtype=np.int32)
    for step in range(40):  # enough parts for one merge
        values = np.array([[step, np.nan], [step, np.inf], [step, 0.5]])
        writer.rows(step, ids, values, np.array([[True, True], [True, True], [False, True]]))
        writer.scalars(step, {"loss": 1.0 / (step + 1)})
        writer.flush()
    (tmp_path / "run" / "layers" / ".part-r0-9.parquet.0000.tmp").write_bytes(b"torn")  # of a writer that died
    writer.close()
    return tmp_path / "run"


def test_pandas_reads_a_table_as_one_folder(folder: Path) -> None:
    frame = pd.read_parquet(folder / "layers")
    assert frame.columns.tolist() == ["step", "rank", "id", "skipped", "nonfinite", "a", "b"]
    assert len(frame) == 120
    assert frame["a"].isna().sum() == 40
    assert np.isinf(frame["b"]).sum() == 40
    assert frame["a"].dtype == np.float64
    assert frame["b"].dtype == np.float32


def test_duckdb_tells_null_from_nan(folder: Path) -> None:
    query = f"""
        select count(*), count(a), count(*) filter (where isnan(b)), sum(a) from '{folder}/layers/part-*.parquet'
    """
    assert duckdb.sql(query).fetchall() == [(120, 80, 40, 2.0 * sum(range(40)))]
    losses = duckdb.sql(f"select max(value) from '{folder}/scalars/*.parquet' where name = 'loss'").fetchall()
    assert losses == [(1.0,)]


def test_duckdb_maps_id_to_depth_by_run_json(folder: Path) -> None:
    query = f"""
        with layers as (select unnest(layers) as one from read_json('{folder}/run.json', maximum_object_size=10000000))
        select one.depth, max(a) from '{folder}/layers/part-*.parquet' join layers on id = one.id
        group by 1 order by 1
    """
    assert duckdb.sql(query).fetchall() == [(1, 39.0), (2, 39.0), (3, None)]


def test_run_json_is_strict_and_says_what_is_where(folder: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    content = json.loads((folder / "run.json").read_text(), parse_constant=refuse)
    assert list(content) == [
        *["format", "name", "metrics", "layers", "status", "error", "config", "environment", "every"],
        *["next_step", "host", "pid", "pid_started", "start", "heartbeat", "end", "version"],
    ]
    assert (content["format"], content["status"]) == (1, "finished")


@pytest.mark.parametrize("table", TABLES)
def test_the_schema_of_every_table_is_the_documented_one(table: str, metrics: Any) -> None:
    documented = {
        "layers": "step rank id skipped nonfinite a b",
        "scalars": "step rank name value",
        "events": "step rank time kind text",
        "histograms": "step rank id quantity lowest positive negative zeros nonfinite sampled entries",
        "units": "step rank id unit samples flat_fraction dead",
        "coverage": "step rank layer code expected fired text parameters boundaries units",
        "shards": "step rank id weight_share weight_copies bias_share bias_copies weight_grad_norm weight_grad_rms "
        "weight_grad_zero_fraction bias_grad_norm weight_rms bias_rms update_ratio",
    }
    assert schema_of(table, metrics).names == documented[table].split()
