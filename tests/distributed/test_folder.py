"""One folder, written by the processes of several ranks without a lock."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gradscope.errors import InvalidValueError, RunExistsError
from gradscope.runs import Run, Writer
from gradscope.spec import LayerSpec, MetricSpec

SCRIPT = Path(__file__).parents[1] / "runs" / "writing_process.py"
METRICS = [MetricSpec("a", "A"), MetricSpec("b", "B")]
FOREVER = 10**9


def start(folder: Path, rank: int, steps: int = FOREVER) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), str(folder), str(rank), str(steps), "1"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def await_step(process: subprocess.Popen[str], step: int) -> None:
    assert process.stdout is not None
    while int(process.stdout.readline()) < step:
        pass


def test_a_rank_survives_the_death_of_rank_0(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first, second = start(folder, 0), start(folder, 1, steps=60)
    await_step(first, 20)
    first.kill()
    first.communicate()
    second.communicate()
    assert second.returncode == 0
    run = Run(folder)
    assert run.status == "interrupted"
    assert run.ranks == [0, 1]
    assert run.steps(rank=1) == list(range(60))
    last = run.steps()[-1]
    assert run.steps() == list(range(last + 1))
    assert last >= 20
    # Ranks that resume go on with the same step, whichever opens first and wherever each had got to.
    expected = max(last, 59) + 1
    writers = [Writer(folder, metrics=METRICS, resume=True, rank=rank) for rank in (1, 0)]
    assert [one.next_step for one in writers] == [expected, expected]
    for one in writers:
        one.close()


def test_ranks_number_their_layers_as_they_meet_them(tmp_path: Path) -> None:
    first, second = (Writer(tmp_path, metrics=METRICS, rank=rank) for rank in (0, 1))
    first.describe([LayerSpec(0, "in", 1, 1), LayerSpec(1, "left", 1, 2), LayerSpec(2, "out", 1, 3)])
    second.describe([LayerSpec(0, "in", 1, 1), LayerSpec(1, "right", 1, 2), LayerSpec(2, "out", 1, 3)])
    values = np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    for one in (second, first):
        one.rows(0, np.arange(3, dtype=np.int32), values, np.ones((3, 2), np.bool_))
        one.append("units", [{"id": 1, "step": 0, "unit": 5, "samples": 64, "flat_fraction": 0.0, "dead": False}])
        one.close()
    run = Run(tmp_path)
    assert run.profile("a", rank=0).to_dict() == {1: 1.0, 2: 2.0, 3: 3.0}
    assert run.profile("a", rank=1).to_dict() == {1: 1.0, 3: 3.0, 4: 2.0}  # what rank 0 never met comes last
    assert run.rows("a", rank=1)["layer"].tolist() == ["in", "out", "right"]
    assert run.units[["rank", "depth", "layer"]].to_numpy().tolist() == [[0, 2, "left"], [1, 4, "right"]]
    assert run.layers["layer"].tolist() == ["in", "left", "out"]


def test_a_rank_that_has_recorded_into_the_folder_before(tmp_path: Path) -> None:
    Writer(tmp_path, metrics=METRICS, rank=1).close()
    with pytest.raises(RunExistsError) as error:
        Writer(tmp_path, metrics=METRICS, rank=1)
    assert str(error.value) == f"{str(tmp_path)!r} already holds a run; choose another folder, or resume=True"


def test_a_rank_that_resumes_with_other_metrics(tmp_path: Path) -> None:
    Writer(tmp_path, metrics=METRICS).close()
    with pytest.raises(InvalidValueError, match="were fixed when it was opened; this selection is without 'b'"):
        Writer(tmp_path, metrics=METRICS[:1], rank=1, resume=True)


def test_rows_of_ranks_from_before_they_described_themselves(tmp_path: Path) -> None:
    """A run of version 0.1.0 has no run-1.json: the ids of all ranks are those of run.json."""
    for rank in (0, 1):
        writer = Writer(tmp_path, metrics=METRICS, rank=rank)
        writer.describe([LayerSpec(0, "in", 1, 1)])
        writer.rows(0, np.zeros(1, np.int32), np.array([[float(rank), 0.0]]), np.ones((1, 2), np.bool_))
        writer.close()
    (tmp_path / "run-1.json").unlink()
    run = Run(tmp_path)
    assert run.ranks == [0, 1]
    assert run.profile("a", rank=1).to_dict() == {1: 1.0}


def test_ranks_that_record_other_metrics(tmp_path: Path) -> None:
    first = Writer(tmp_path, metrics=METRICS, rank=1)
    with pytest.raises(InvalidValueError, match="were fixed when it was opened; this selection is without 'b'"):
        Writer(tmp_path, metrics=METRICS[:1])
    assert not (tmp_path / "run.json").exists()
    first.close()
