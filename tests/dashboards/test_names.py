"""Names of runs, keys and labels, wherever they stand."""

from dataclasses import replace
from pathlib import Path

import synthetic_runs

from gradscope.dashboards import blocks, table
from gradscope.dashboards.pages import flow, runs
from gradscope.dashboards.source import Source
from gradscope.dashboards.state import FlowState, RunsState
from gradscope.runs import Writer


def test_names_are_in_natural_order(tmp_path: Path) -> None:
    for name in ("depth=12", "depth=2", "depth=100"):
        Writer(str(tmp_path / name), metrics=synthetic_runs.METRICS).close()
    (tmp_path / "depth=2" / "run.json").write_text("{")
    source = Source(str(tmp_path))
    assert list(source.runs) == ["depth=12", "depth=100"]
    page = runs.answer(source, RunsState(), None)
    assert [row["name"] for row in page["rows"]] == ["depth=2", "depth=12", "depth=100"]
    assert page["count"] == f"3 runs in {tmp_path}, of which 1 cannot be read"


def test_keys_that_vary_come_first_though_a_run_cannot_be_read(tmp_path: Path) -> None:
    for seed in (0, 1):
        config = {"data": "digits", "seed": seed}
        Writer(str(tmp_path / f"{seed}"), metrics=synthetic_runs.METRICS, config=config).close()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    defs = table.columns(table.rows(Source(str(tmp_path))), RunsState())
    assert [one["headerName"] for one in defs[-2:]] == ["seed", "data"]


def test_a_key_like_a_column_of_the_table_is_told_apart(tmp_path: Path) -> None:
    config = {"place": 7, "href": "x"}
    Writer(str(tmp_path / "a"), metrics=synthetic_runs.METRICS, config=config).close()
    row = table.rows(Source(str(tmp_path)))[0]
    assert (row["config.place"], row["place"], row["config.href"]) == (7, 0, "x")


def test_long_labels_are_shortened_and_stay_apart() -> None:
    long = "x" * 80
    assert [one["label"] for one in blocks.choices(["a" + long, "b"])] == ["a" + "x" * 29 + "…" + "x" * 29, "b"]
    twins = [f"{long}1{long}", f"{long}2{long}"]
    assert [one["label"] for one in blocks.choices(twins)] == twins


def test_markup_in_a_label_is_text(tmp_path: Path) -> None:
    signal = replace(synthetic_runs.METRICS[0], label="<b>bold</b>")
    Writer(str(tmp_path / "a"), metrics=[signal]).close()
    page = flow.answer(Source(str(tmp_path)), FlowState(), "light")
    assert page["metric_data"][0]["items"][0]["label"] == "<b>bold</b>"
    assert page["heatmap"].layout.title.text == "&lt;b&gt;bold&lt;/b&gt; over depth and step"
