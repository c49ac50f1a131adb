"""A run that grows, ends, is continued; where its folder is."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from gradscope.errors import InvalidValueError, RunExistsError
from gradscope.runs import Run, Writer, load
from gradscope.runs.store import Store
from gradscope.spec import LayerSpec, MetricSpec

Fill = Callable[..., None]
Chain = Callable[..., list[LayerSpec]]


@pytest.fixture
def memory() -> Iterator[str]:
    yield "memory://bucket/run"
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def described(folder: Path, **changes: Any) -> None:
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_refresh_reads_only_new_parts(
    tmp_path: Path, metrics: Any, chain: Chain, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(str(tmp_path / "run"), metrics=metrics)
    writer.describe(chain(3))
    fill(writer, [0])
    writer.flush()
    run = Run(str(tmp_path / "run"))
    assert run.steps("a") == [0]
    assert run.refresh() is False
    fill(writer, [1])
    assert run.refresh() is False  # not flushed
    writer.flush()
    opened: list[str] = []
    plain = Store.parquet
    monkeypatch.setattr(Store, "parquet", lambda self, name: (opened.append(name), plain(self, name))[1])
    assert run.steps("a") == [0]  # as of the last refresh
    assert run.refresh() is True
    assert opened == []
    assert run.steps("a") == [0, 1]
    assert [name[-16:] for name in opened] == ["00000001.parquet"]


def test_refresh_notices_status_layers_and_small_tables(tmp_path: Path, metrics: Any, chain: Chain) -> None:
    writer = Writer(str(tmp_path / "run"), metrics=metrics)
    run = Run(str(tmp_path / "run"))
    assert (run.status, run.refresh()) == ("running", False)
    writer.describe(chain(2))
    writer.flush()
    assert (run.refresh(), len(run.specs)) == (True, 2)
    writer.event(0, "hello")
    writer.flush()
    assert (run.refresh(), len(run.events)) == (True, 1)
    writer.close("failed", "RuntimeError: no")
    assert (run.refresh(), run.status, run.error) == (True, "failed", "RuntimeError: no")
    assert run.refresh() is False


def test_refresh_notices_that_the_writer_died(tmp_path: Path, metrics: Any) -> None:
    Writer(str(tmp_path / "run"), metrics=metrics)
    run = Run(str(tmp_path / "run"))
    described(tmp_path / "run", pid_started=1)  # another process of this number
    assert (run.refresh(), run.status) == (True, "interrupted")


def test_a_writer_on_another_host_is_judged_by_its_heartbeat(tmp_path: Path, metrics: Any) -> None:
    Writer(str(tmp_path / "run"), metrics=metrics)
    now = time.time()
    described(tmp_path / "run", host="elsewhere", heartbeat=now - 300)
    assert Run(str(tmp_path / "run")).status == "running"
    described(tmp_path / "run", host="elsewhere", heartbeat=now - 900)
    assert Run(str(tmp_path / "run")).status == "interrupted"


def test_closing_twice_is_harmless(tmp_path: Path, metrics: Any) -> None:
    writer = Writer(str(tmp_path / "run"), metrics=metrics)
    writer.close("failed", "boom")
    first = (tmp_path / "run" / "run.json").read_bytes()
    writer.close()
    assert (tmp_path / "run" / "run.json").read_bytes() == first


def test_tick_flushes_by_time_and_by_volume(tmp_path: Path, metrics: Any, chain: Chain, fill: Fill) -> None:
    patient = Writer(str(tmp_path / "patient"), metrics=metrics, flush_seconds=1e9, flush_values=13)
    hasty = Writer(str(tmp_path / "hasty"), metrics=metrics, flush_seconds=0.0)
    seen = []
    for step in range(4):
        for writer in (patient, hasty):
            writer.describe(chain(3))
            fill(writer, [step])
            writer.tick()
        seen.append([len(Run(str(tmp_path / name)).steps()) for name in ("patient", "hasty")])
    assert seen == [[0, 1], [0, 2], [3, 3], [3, 4]]  # 6 values a step: the third makes 18


def test_a_failed_flush_keeps_its_rows(tmp_path: Path, metrics: Any, chain: Chain, fill: Fill) -> None:
    writer = Writer(str(tmp_path / "run"), metrics=metrics)
    writer.describe(chain(3))
    fill(writer, [0])
    obstacle = tmp_path / "run" / "layers"
    obstacle.write_text("in the way")
    writer.scalars(0, {"loss": 1.0})
    with pytest.warns(UserWarning, match="could not be written") as caught:
        writer.flush()
    assert re.fullmatch(
        rf"{tmp_path}/run/layers could not be written: NotADirectoryError: .*; "
        "it is tried again until the run is closed",
        str(caught[0].message),
    )
    assert Run(str(tmp_path / "run")).scalars["value"].tolist() == [1.0]
    writer.flush()  # it fails again, and says so no more
    assert len(caught) == 1
    obstacle.unlink()
    fill(writer, [1])
    writer.close()
    run = Run(str(tmp_path / "run"))
    assert (run.status, run.steps()) == ("finished", [0, 1])


def test_a_run_whose_rows_cannot_be_written_still_ends(tmp_path: Path, metrics: Any, chain: Chain, fill: Fill) -> None:
    writer = Writer(str(tmp_path / "run"), metrics=metrics)
    writer.describe(chain(3))
    fill(writer, [0])
    (tmp_path / "run" / "layers").write_text("in the way")
    with pytest.warns(UserWarning, match="layers could not be written"):
        writer.close("failed", "RuntimeError: no")
    run = Run(str(tmp_path / "run"))
    assert (run.status, run.error, len(run.specs)) == ("failed", "RuntimeError: no", 3)


def test_an_interrupted_close_writes_the_status(tmp_path: Path, metrics: Any, chain: Chain, fill: Fill) -> None:
    class InterruptedStore(Store):
        def write(self, name: str, data: Any) -> None:
            raise KeyboardInterrupt

    writer = Writer(str(tmp_path / "run"), metrics=metrics)
    writer.describe(chain(3))
    fill(writer, [0])
    writer._parts["layers"]._store = InterruptedStore(str(tmp_path / "run"))
    with pytest.raises(KeyboardInterrupt):
        writer.close()
    assert Run(str(tmp_path / "run")).status == "finished"


def test_buffers_are_reused(tmp_path: Path, metrics: Any, fill: Fill) -> None:
    writer = Writer(str(tmp_path / "run"), metrics=metrics)
    fill(writer, range(1000))
    writer.flush()
    room = writer._buffer._values.shape
    for start in range(1000, 5000, 1000):
        fill(writer, range(start, start + 1000))
        writer.flush()
    assert writer._buffer._values.shape == room


def test_resume_continues_the_steps(tmp_path: Path, metrics: Any, chain: Chain, fill: Fill) -> None:
    writer = Writer(str(tmp_path / "run"), metrics=metrics, config={"lr": 1, "seed": 3}, name="mine")
    writer.describe(chain(3))
    fill(writer, [0, 10])
    writer.next_step = 14
    writer.close("failed", "boom")
    again = Writer(str(tmp_path / "run"), metrics=metrics, resume=True, config={"lr": 2}, name="other")
    assert (again.next_step, again.layers) == (14, tuple(chain(3)))
    fill(again, [20])
    again.scalars(1000, {"loss": 1.0})  # any step may be logged: it does not count
    again.flush()
    described(tmp_path / "run", pid_started=1)  # the second one died unclosed
    third = Writer(str(tmp_path / "run"), metrics=metrics, resume=True)
    assert third.next_step == 21
    run = Run(str(tmp_path / "run"))
    assert (run.name, run.error, run.config) == ("mine", None, {"lr": 2, "seed": 3})
    assert run.steps() == [0, 10, 20]


def test_a_run_that_is_being_written_is_not_resumed(tmp_path: Path, metrics: Any) -> None:
    path = str(tmp_path / "run")
    first = Writer(path, metrics=metrics)
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(RunExistsError) as error:
        Writer(path, metrics=metrics, resume=True)
    assert str(error.value) == (
        f"'{path}' is being written by process {os.getpid()} on host {socket.gethostname()}; "
        "close it first, or choose another folder"
    )
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    Writer(path, metrics=metrics, resume=True, rank=1).close()  # another rank of it joins in
    first.close()
    Writer(path, metrics=metrics, resume=True).close()


def test_a_run_of_another_host_is_resumed(tmp_path: Path, metrics: Any) -> None:
    """A job that was preempted goes on elsewhere at once; whether its process lives cannot be known."""
    Writer(str(tmp_path / "run"), metrics=metrics)
    described(tmp_path / "run", host="elsewhere")
    Writer(str(tmp_path / "run"), metrics=metrics, resume=True).close()
    assert Run(str(tmp_path / "run")).status == "finished"


def test_resume_where_there_is_nothing_starts_afresh(tmp_path: Path, metrics: Any) -> None:
    writer = Writer(str(tmp_path / "run"), metrics=metrics, resume=True)
    assert (writer.next_step, writer.layers) == (0, ())


def test_the_selection_of_metrics_is_fixed(tmp_path: Path) -> None:
    a, b, c = (MetricSpec(name, name) for name in "abc")
    Writer(str(tmp_path / "run"), metrics=[a, b]).close()
    changes = [([a, c], "without 'b', with 'c'"), ([a], "without 'b'"), ([b, a], "in another order")]
    for selection, change in changes:
        with pytest.raises(InvalidValueError) as error:
            Writer(str(tmp_path / "run"), metrics=selection, resume=True)
        assert str(error.value) == (
            f"the metrics of '{tmp_path}/run' were fixed when it was opened; this selection is {change}"
        )


def test_other_ranks_leave_the_description_alone(tmp_path: Path, metrics: Any, chain: Chain, fill: Fill) -> None:
    other = Writer(str(tmp_path / "run"), metrics=metrics, rank=1)
    fill(other, [0])
    other.flush()
    assert not (tmp_path / "run" / "run.json").exists()
    first = Writer(str(tmp_path / "run"), metrics=metrics, rank=0)
    first.describe(chain(3))
    fill(first, [0, 1])
    first.scalars(0, {"loss": 1.0})
    first.close()
    other.scalars(0, {"loss": 5.0})
    other.event(0, "of rank 1")
    other.close("failed")
    run = Run(str(tmp_path / "run"))
    assert run.status == "finished"
    assert (run.steps(), run.steps(rank=1)) == ([0, 1], [0])
    assert run.scalars["value"].tolist() == [1.0]
    assert run.events["rank"].tolist() == [1]


def test_a_run_in_memory(memory: str, metrics: Any, chain: Chain, fill: Fill) -> None:
    """What works on an object store: one put a file, no rename."""
    writer = Writer(memory, metrics=metrics)
    writer.describe(chain(3))
    for step in range(40):
        fill(writer, [step])
        writer.flush()
    run = load(memory)
    assert isinstance(run, Run)
    assert run.steps("a") == list(range(40))
    assert len(fsspec.filesystem("memory").ls("/bucket/run/layers")) == 9
    fill(writer, [40])
    writer.close()
    assert run.refresh() is True
    assert (run.frame("b").shape, run.status) == ((41, 3), "finished")
    runs = load("memory://bucket")
    assert not isinstance(runs, Run)
    assert runs.names == ["run"]
    with pytest.raises(FileExistsError, match=r"^'memory://bucket/run' already holds a run"):
        Writer(memory, metrics=metrics)
    assert Writer(memory, metrics=metrics, resume=True).next_step == 41


def test_rows_of_an_undescribed_layer_wait(tmp_path: Path, metrics: Any, chain: Chain, fill: Fill) -> None:
    writer = Writer(str(tmp_path / "run"), metrics=metrics)
    writer.describe(chain(2))
    fill(writer, [0])
    writer.flush()
    run = Run(str(tmp_path / "run"))
    assert run.frame("a").columns.tolist() == [1, 2]
    writer.describe(chain(3))
    writer.flush()
    assert run.refresh() is True
    assert run.frame("a").columns.tolist() == [1, 2, 3]


def test_float32_columns_hold_infinity_beyond_their_range(tmp_path: Path, metrics: Any, chain: Chain) -> None:
    writer = Writer(str(tmp_path / "run"), metrics=metrics)
    writer.describe(chain(1))
    writer.rows(0, np.zeros(1, np.int32), np.full((1, 2), 1e300), np.ones((1, 2), np.bool_))
    writer.close()
    run = Run(str(tmp_path / "run"))
    assert (run.profile("a")[1], run.profile("b")[1]) == (1e300, np.inf)
