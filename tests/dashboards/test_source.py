import shutil
from pathlib import Path

import numpy as np
import pytest
import synthetic_runs

from gradscope.dashboards.source import Source
from gradscope.dashboards.table import counted, rows
from gradscope.errors import RunFormatError, UnknownNameError


def test_a_folder_a_run_and_runs_are_sources(folder: Path) -> None:
    names = list(Source(str(folder)).runs)
    assert len(names) == 20
    assert names == sorted(names)
    assert list(Source(synthetic_runs.open_runs(folder)).runs) == names
    assert list(Source(str(folder / "plain")).runs) == ["plain"]
    assert list(Source(synthetic_runs.open_run(folder / "plain")).runs) == ["plain"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFormatError) as caught:
        Source(str(tmp_path / "none"))
    assert str(caught.value) == f"there is no folder '{tmp_path}/none'"


def test_an_unknown_run_names_the_choices(folder: Path) -> None:
    with pytest.raises(UnknownNameError) as caught:
        Source(str(folder / "plain")).run("plane")
    assert str(caught.value) == "no run 'plane'; there are: plain (did you mean 'plain'?)"


def test_new_runs_and_steps_are_news(tmp_path: Path) -> None:
    source = Source(str(tmp_path))
    assert source.runs == {}
    before = source.version()
    source.poll()
    assert source.version() == before
    writer = synthetic_runs.write(tmp_path / "live", steps=range(0, 20, 10), close=False)
    writer.flush()
    source.poll()
    assert list(source.runs) == ["live"]
    appeared = source.version()
    assert appeared != before
    source.poll()
    assert source.version() == appeared
    synthetic_runs.add_step(writer, 20, 8, 0.5, 0.0, np.random.default_rng(0))
    writer.flush()
    source.poll(["live"])
    assert source.version() != appeared
    assert source.runs["live"].steps() == [0, 10, 20]
    grown = source.version()
    writer.close()
    source.poll()
    assert source.version() != grown
    assert source.runs["live"].status == "finished"


def test_a_corrupt_run_is_kept_apart_and_comes_back(tmp_path: Path) -> None:
    synthetic_runs.write(tmp_path / "good")
    synthetic_runs.write(tmp_path / "bad")
    description = tmp_path / "bad" / "run.json"
    text = description.read_text()
    description.write_text("{")
    source = Source(str(tmp_path))
    assert list(source.runs) == ["good"]
    assert list(source.broken) == ["bad"]
    assert source.broken["bad"].startswith(f"{tmp_path}/bad/run.json is not valid JSON: ")
    with pytest.raises(RunFormatError, match="is not valid JSON"):
        source.run("bad")
    description.write_text(text)
    source.poll()
    assert list(source.runs) == ["bad", "good"]
    assert source.broken == {}


def test_a_run_that_turns_corrupt_or_goes_away(tmp_path: Path) -> None:
    synthetic_runs.write(tmp_path / "one")
    source = Source(str(tmp_path))
    (tmp_path / "one" / "run.json").write_text("[]")
    source.poll()
    assert list(source.broken) == ["one"]
    shutil.rmtree(tmp_path / "one")
    source.poll()
    assert source.runs == {}


def test_an_unknown_run_is_counted_against_all_that_the_table_counts(tmp_path: Path) -> None:
    for place in range(13):
        synthetic_runs.write(tmp_path / f"run-{place}", depth=2, steps=range(1))
    (tmp_path / "run-3" / "run.json").write_text("{")
    source = Source(str(tmp_path))
    table = rows(source)
    assert counted(table, str(tmp_path)).startswith("13 runs in")
    with pytest.raises(UnknownNameError, match=f"no run 'nope' among the {len(table)} runs in "):
        source.run("nope")
