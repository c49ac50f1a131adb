"""Folders and files that are no readable run: the message names the file and the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gradscope as gs
from gradscope.errors import InvalidTypeError, InvalidValueError, RunExistsError, RunFormatError
from gradscope.runs import Run, Writer, load
from gradscope.runs.coverage import latest_coverage
from gradscope.spec import LayerSpec


@pytest.fixture
def folder(tmp_path: Path, metrics: Any, chain: Callable[..., list[LayerSpec]], fill: Callable[..., None]) -> Path:
    writer = Writer(str(tmp_path / "run"), metrics=metrics)
    writer.describe(chain(3))
    fill(writer, [0, 1])
    writer.close()
    return tmp_path / "run"


def message(path: Path) -> str:
    with pytest.raises(RunFormatError) as error:
        load(path)
    return str(error.value)


def test_a_missing_folder(tmp_path: Path) -> None:
    assert message(tmp_path / "none") == f"there is no folder '{tmp_path}/none'"


def test_a_file(folder: Path) -> None:
    path = folder / "run.json"
    assert message(path) == f"'{path}' is a file; a run is a folder with a run.json"


@pytest.mark.parametrize("below", ["", "/x", "/x/y"])
def test_a_run_cannot_be_written_below_a_file(
    tmp_path: Path, metrics: Any, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("print()\n")
    given = {f"mine.py{below}": "mine.py", f"file://{tmp_path}/mine.py{below}": f"{tmp_path}/mine.py"}
    for path, named in given.items():
        with pytest.raises(InvalidValueError) as error:
            Writer(path, metrics=metrics)
        assert str(error.value) == f"'{named}' is a file; out is a folder"
    assert Path("mine.py").read_text() == "print()\n"


def test_a_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "photos" / "2020").mkdir(parents=True)
    (tmp_path / "photos" / "a.txt").write_text("hello")
    path = tmp_path / "photos"
    assert message(path) == f"'{path}' holds no run: no run.json in it or in 3 levels below"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is not valid JSON: Expecting value: line 1 column 1 (char 0)"),
        ('{"format": 1, "name"', "is not valid JSON: Expecting ':' delimiter: line 1 column 21 (char 20)"),
        ("[]", "is not the description of a gradscope run: it has no number 'format'"),
        ('{"run": "of a marathon"}', "is not the description of a gradscope run: it has no number 'format'"),
        ('{"format": 99}', "has format 99; this gradscope reads up to 1: upgrade it"),
        ('{"format": 1, "name": "x"}', "is damaged: KeyError: 'metrics'"),
        (
            '{"format": 1, "metrics": []}',
            "is damaged: TypeError: Description.__init__() missing 1 required positional argument: 'name'",
        ),
        ('{"format": 1, "name": "x", "metrics": [3]}', "is damaged: metrics[0] is an object, not a whole number"),
    ],
)
def test_a_bad_description(folder: Path, content: str, reason: str) -> None:
    (folder / "run.json").write_text(content)
    assert message(folder) == f"{folder}/run.json {reason}"


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("name", None, "name is a string, not null"),
        ("status", 3, "status is a string, not a whole number"),
        ("error", [], "error is a string or null, not a list"),
        ("layers", 5, "layers is a list, not a whole number"),
        ("layers", {}, "layers is a list, not an object"),
        ("layers", [{"id": "a"}], "layers[0].id is a whole number, not a string"),
        ("layers", [{"id": 0, "parents": ["b"]}], "layers[0].parents is a whole number, not a string"),
        ("metrics", [{"name": 1}], "metrics[0].name is a string, not a whole number"),
        ("metrics", [{"name": "a", "bounds": 1}], "metrics[0].bounds is a list, not a whole number"),
        (
            "metrics",
            [{"name": "a", "label": "A"}, {"name": "b", "label": "B", "scale": "logg"}],
            "metrics[1]: scale of metric 'b' is one of linear, log, not 'logg'",
        ),
        (
            "metrics",
            [{"name": "a", "label": "A", "dtype": "int8"}],
            "metrics[0]: dtype of metric 'a' is one of float64, float32, not 'int8'",
        ),
        ("config", [1], "config is an object, not a list"),
        ("every", True, "every is a whole number, not true or false"),
        ("heartbeat", "now", "heartbeat is a number, not a string"),
        ("end", "now", "end is a number or null, not a string"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(folder: Path, field: str, value: Any, reason: str) -> None:
    content = json.loads((folder / "run.json").read_text()) | {field: value}
    (folder / "run.json").write_text(json.dumps(content))
    assert message(folder) == f"{folder}/run.json is damaged: {reason}"


def test_infinite_bounds_of_an_older_run_are_none(folder: Path) -> None:
    content = json.loads((folder / "run.json").read_text())
    content["metrics"][0]["bounds"] = [0.0, "inf"]
    (folder / "run.json").write_text(json.dumps(content))
    run = load(folder)
    assert isinstance(run, Run)
    assert next(iter(run.metrics.values())).bounds == (0.0, None)


def test_a_run_that_has_gone(folder: Path) -> None:
    run = Run(str(folder))
    (folder / "run.json").unlink()
    with pytest.raises(RunFormatError) as error:
        run.refresh()
    assert str(error.value) == f"'{folder}' holds no run: it has no run.json"


@pytest.mark.parametrize("path", [3, None, b"run", ["run"]])
def test_what_is_no_path(path: Any, metrics: Any) -> None:
    calls: list[Callable[[], object]] = [lambda: load(path), lambda: Run(path), lambda: Writer(path, metrics=metrics)]
    for call in calls:
        with pytest.raises(InvalidTypeError) as error:
            call()
        assert str(error.value) == f"path is a string or a path, not {type(path).__name__}"


def test_what_a_writer_could_not_read_back_is_refused(tmp_path: Path, metrics: Any) -> None:
    given: dict[str, dict[str, Any]] = {
        "name is a string, not int": {"name": 3},
        "every is a whole number, not 2.5": {"every": 2.5},
    }
    for reason, arguments in given.items():
        with pytest.raises(InvalidTypeError) as error:
            Writer(tmp_path / "run", metrics=metrics, **arguments)
        assert str(error.value) == reason
    assert not (tmp_path / "run").exists()


def test_a_description_that_is_not_text(folder: Path) -> None:
    (folder / "run.json").write_bytes(b"\xff\xfe\x00")
    assert message(folder).startswith(f"{folder}/run.json is not valid JSON: ")


def test_a_run_opened_directly_without_description(tmp_path: Path) -> None:
    with pytest.raises(RunFormatError) as error:
        Run(str(tmp_path))
    assert str(error.value) == f"'{tmp_path}' holds no run: it has no run.json"


def test_a_truncated_part(folder: Path) -> None:
    (part,) = (folder / "layers").iterdir()
    part.write_bytes(part.read_bytes()[:-20])
    run = load(folder)
    assert isinstance(run, Run)
    with pytest.raises(RunFormatError) as error:
        run.frame("a")
    assert str(error.value).startswith(f"{folder}/layers/{part.name} is not a readable part: ")
    assert "Parquet magic bytes not found in footer" in str(error.value)


def test_an_empty_part(folder: Path) -> None:
    (part,) = (folder / "layers").iterdir()
    part.write_bytes(b"")
    run = load(folder)
    assert isinstance(run, Run)
    with pytest.raises(RunFormatError) as error:
        run.frame("a")
    assert str(error.value) == (f"{folder}/layers/{part.name} is not a readable part: Parquet file size is 0 bytes")


@pytest.fixture
def looks(tmp_path: Path, metrics: Any, chain: Callable[..., list[LayerSpec]], fill: Callable[..., None]) -> Path:
    """A run whose account of the layers is in two parts, of steps 0 and 1."""
    writer = Writer(str(tmp_path / "run"), metrics=metrics)
    writer.describe(chain(3))
    for step, code in enumerate(["missed", "recorded"]):
        fill(writer, [step])
        row = {"step": step, "layer": "net.0", "code": code, "text": code, "expected": 1, "fired": step}
        writer.append("coverage", [row | dict.fromkeys(("parameters", "boundaries", "units"), "yes")])
        writer.flush()
    writer.close()
    return tmp_path / "run"


def truncated(folder: Path, number: int) -> str:
    """Cut a part of the coverage short; return how messages begin that name it."""
    part = sorted((folder / "coverage").iterdir())[number]
    part.write_bytes(part.read_bytes()[:-20])
    return f"{folder}/coverage/{part.name} is not a readable part: "


@pytest.mark.parametrize(("number", "left"), [(0, "recorded"), (1, "missed")])
def test_a_truncated_part_of_the_coverage_costs_its_rows_alone(looks: Path, number: int, left: str) -> None:
    reason = truncated(looks, number)
    run = Run(looks)
    with pytest.warns(UserWarning, match="; what it says of the layers is left out$") as caught:
        found = run.coverage
    assert [str(one.message).startswith(reason) for one in caught] == [True]
    assert found["code"].tolist() == [left]
    assert str(found).startswith(reason)
    assert left in str(found).splitlines()[-1]
    assert run.frame("a").shape == (2, 3)


def test_what_is_missing_of_the_coverage_is_warned_of_once(looks: Path, recwarn: pytest.WarningsRecorder) -> None:
    truncated(looks, 0)
    run = Run(looks)
    assert [run.coverage["code"].tolist() for _ in range(3)] == [["recorded"]] * 3
    assert len(recwarn) == 1


def test_a_coverage_with_rows_missing_has_no_last_look(looks: Path) -> None:
    whole = latest_coverage(Run(looks).coverage)
    assert whole["code"].tolist() == ["recorded"]
    reason = truncated(looks, 1)
    with pytest.warns(UserWarning, match="is not a readable part"):
        found = Run(looks).coverage
    with pytest.raises(RunFormatError) as error:
        latest_coverage(found)
    assert str(error.value).startswith(reason)


def test_a_diagnosis_does_without_a_coverage_that_cannot_be_read(tmp_path: Path) -> None:
    """All that was measured can be read: the same is found as before, but for what only the coverage knew."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        for _ in range(3):
            model(torch.randn(8, 4)).square().sum().backward()
            probe.step()
    before = gs.diagnose(Run(tmp_path / "run"))
    reason = truncated(tmp_path / "run", 0)
    with pytest.warns(UserWarning, match="; what it says of the layers is left out$") as caught:
        after = gs.diagnose(Run(tmp_path / "run"))
    assert str(after) == str(before)
    assert "no-gradient" in after.healthy
    assert [str(one.message).startswith(reason) for one in caught] == [True]
    empty = Run(tmp_path / "run")
    with pytest.warns(UserWarning, match="is not a readable part"):
        assert str(empty.coverage).splitlines()[-1] == "no layers"


def test_a_part_without_the_column(folder: Path) -> None:
    content = json.loads((folder / "run.json").read_text())
    content["metrics"].append(content["metrics"][0] | {"name": "c"})
    (folder / "run.json").write_text(json.dumps(content))
    (part,) = (folder / "layers").iterdir()
    run = load(folder)
    assert isinstance(run, Run)
    with pytest.raises(RunFormatError) as error:
        run.frame("c")
    assert str(error.value) == f"{folder}/layers/{part.name} has no column 'c'"
    assert run.frame("a").shape == (2, 3)


def test_keys_of_a_later_version_are_ignored(folder: Path) -> None:
    content = json.loads((folder / "run.json").read_text())
    content["colour"] = "blue"
    content["metrics"][0]["smell"] = content["layers"][0]["taste"] = "none"
    (folder / "run.json").write_text(json.dumps(content))
    run = load(folder)
    assert isinstance(run, Run)
    assert run.frame("a").shape == (2, 3)


def test_one_bad_run_does_not_hide_the_others(folder: Path, metrics: Any) -> None:
    Writer(str(folder.parent / "bad"), metrics=metrics).close()
    (folder.parent / "bad" / "run.json").write_text("{")
    with pytest.warns(UserWarning, match="left out") as caught:
        runs = load(folder.parent)
    reason = (
        f"{folder.parent}/bad/run.json is not valid JSON: "
        "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
    )
    assert [str(one.message) for one in caught] == [f"left out a run that cannot be read: {reason}"]
    assert not isinstance(runs, Run)
    assert runs.names == ["run"]
    assert {name: str(error) for name, error in runs.broken.items()} == {"bad": reason}


def test_a_folder_that_holds_a_run_is_not_overwritten(folder: Path, metrics: Any) -> None:
    before = (folder / "run.json").read_bytes()
    with pytest.raises(RunExistsError) as error:
        Writer(str(folder), metrics=metrics)
    assert str(error.value) == f"'{folder}' already holds a run; choose another folder, or resume=True"
    assert (folder / "run.json").read_bytes() == before
