"""gradscope check on runs that hold nothing, failed, or are damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

import gradscope as gs
from gradscope.runs import Writer

Call = Callable[..., Result]


def trained(path: Path, activation: str) -> None:
    init = "xavier" if activation == "sigmoid" else "kaiming"
    gs.lab.train(out=path, depth=10, activation=activation, init=init, steps=3)


def damage(run: Path) -> Path:
    part = next((run / "layers").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    return part


def test_a_run_that_failed_at_once_was_not_examined(call: Call, tmp_path: Path) -> None:
    Writer(str(tmp_path / "run"), metrics=(), name="mine").close("failed", "Traceback\nValueError: no data")
    result = call("check", tmp_path / "run")
    assert result.exit_code == 2
    assert result.stderr == "gradscope: mine failed: ValueError: no data\n"
    assert result.stdout.startswith(
        "Diagnosis of run 'mine': no layer was recorded, so none could be checked: the run failed: ValueError: no data"
    )


def test_a_run_whose_rows_are_gone_was_not_examined(call: Call, tmp_path: Path) -> None:
    trained(tmp_path / "run", "relu")
    assert call("check", tmp_path / "run").exit_code == 0
    shutil.rmtree(tmp_path / "run" / "layers")
    result = call("check", tmp_path / "run")
    assert result.exit_code == 2
    assert result.stderr == (
        "gradscope: run could not be examined: run.json lists layers, but the run's layers/ folder holds no rows\n"
    )


@pytest.mark.parametrize(("activation", "code"), [("relu", 2), ("sigmoid", 1)])
def test_a_damaged_run_does_not_keep_others_from_being_examined(
    call: Call, tmp_path: Path, activation: str, code: int
) -> None:
    trained(tmp_path / "a", "relu")
    trained(tmp_path / "b", activation)
    part = damage(tmp_path / "a")
    result = call("check", tmp_path)
    assert result.exit_code == code
    assert result.stderr.startswith("gradscope: left out a: ")
    assert part.name in result.stderr
    assert result.stdout.startswith("Diagnosis of run 'b': ")


def test_a_run_without_a_readable_description_is_left_out(call: Call, tmp_path: Path) -> None:
    trained(tmp_path / "a", "relu")
    trained(tmp_path / "b", "relu")
    (tmp_path / "a" / "run.json").write_text("{")
    result = call("check", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith("gradscope: left out a: ")
