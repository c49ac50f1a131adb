"""Runs that hold no rows of layers: their diagnosis says so, and why."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from gradscope.checks import CHECKS, diagnose
from gradscope.runs import Run, Writer, load


def test_a_run_without_layers_is_not_called_healthy(tmp_path: Path) -> None:
    writer = Writer(str(tmp_path / "run"), metrics=(), name="empty")
    writer.event(0, "no step was closed: nobody called it", kind="probe")
    writer.close()
    findings = diagnose(loaded(tmp_path / "run"))
    why = "no layer was recorded, so none could be checked"
    assert findings.headline == f"Diagnosis of run 'empty': {why}: no step was closed: nobody called it"
    assert findings.healthy == ()
    assert set(findings.not_applicable) == set(CHECKS)


def test_a_run_that_failed_at_once_says_with_what(tmp_path: Path) -> None:
    Writer(str(tmp_path / "run"), metrics=(), name="empty").close("failed", "Traceback\nValueError: no data")
    assert diagnose(loaded(tmp_path / "run")).unrecorded == "the run failed: ValueError: no data"


def test_a_run_whose_rows_are_gone_says_so(record: Callable[..., Run]) -> None:
    run = record({0: [1.0, 1.0, 1.0]})
    assert diagnose(run).unrecorded == ""
    shutil.rmtree(Path(run.path) / "layers")
    findings = diagnose(loaded(Path(run.path)))
    assert findings.unrecorded == "run.json lists layers, but the run's layers/ folder holds no rows"


def loaded(path: Path) -> Run:
    run = load(path)
    assert isinstance(run, Run)
    return run
