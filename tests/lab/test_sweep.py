"""Sweeps: product, resuming, failures, dying workers, interruption, notebooks, other executors."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from interrupts import heed_interrupts

import gradscope as gs
from gradscope.errors import GradscopeError, InvalidTypeError, InvalidValueError, UnknownNameError
from gradscope.lab.execution import CONFIGURATION, Processes, processes
from gradscope.lab.sweep import DIED, sweep
from gradscope.runs import Run, Runs, Writer

# Worker processes cannot import this file, as they cannot a notebook.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


pytestmark = pytest.mark.filterwarnings(r"ignore:\d+ of \d+ runs failed")


def record(out: str, **scalars: float) -> None:
    writer = Writer(out, metrics=())
    writer.scalars(0, scalars)
    writer.close()


def train(*, out: str, depth: int, seed: int = 0, fail: int = -1) -> None:
    """A training whose run says nothing of its configuration: the sweep has to."""
    if depth == fail:
        raise ValueError(f"depth {depth} is not to my liking")
    record(out, loss=depth + seed / 10)


def die(*, out: str, depth: int) -> None:
    if depth == 2:
        os._exit(1)
    record(out, loss=depth)


def threads(*, out: str, depth: int) -> None:
    import torch

    record(out, threads=torch.get_num_threads(), pid=os.getpid())


def quiet(function: Any, out: Path, **arguments: Any) -> Runs:
    return sweep(function, out, **{"progress": False, "workers": 1} | arguments)


def written(runs: Runs) -> dict[str, int]:
    return {run.name: os.stat(f"{run.path}/run.json").st_mtime_ns for run in runs}


def test_every_combination_is_a_run_with_its_configuration(tmp_path: Path) -> None:
    runs = quiet(train, tmp_path / "sweep", depth=[2, 10], seed=range(3))
    assert [run.name for run in runs] == [f"depth={depth},seed={seed}" for depth in (2, 10) for seed in range(3)]
    (one,) = runs.select(depth=10, seed=2)
    assert (one.config, one.final("loss")) == ({"depth": 10, "seed": 2}, 10.2)
    assert list(runs.table()["status"]) == ["finished"] * 6


def test_worker_processes_do_the_same_with_one_thread_each(tmp_path: Path) -> None:
    runs = quiet(threads, tmp_path, depth=[1, 2, 3], workers=2)
    assert [run.final("threads") for run in runs] == [1, 1, 1]
    assert os.getpid() not in {run.final("pid") for run in runs}


def test_what_has_finished_is_not_trained_again(tmp_path: Path) -> None:
    first = written(quiet(train, tmp_path, depth=[2, 8]))
    again = quiet(train, tmp_path, depth=[2, 4, 8])
    assert [run.config["depth"] for run in again] == [2, 4, 8]
    assert {name: time for name, time in written(again).items() if name != "depth=4"} == first


def test_a_sweep_returns_its_own_runs_only(tmp_path: Path) -> None:
    quiet(train, tmp_path, depth=[2, 8])
    assert [run.name for run in quiet(train, tmp_path, depth=[4])] == ["depth=4"]
    everything = gs.load(tmp_path)
    assert isinstance(everything, Runs)
    assert len(everything) == 3


def test_a_fixed_value_that_changes_takes_another_folder(tmp_path: Path) -> None:
    quiet(train, tmp_path, depth=[2], seed=0)
    (other,) = quiet(train, tmp_path, depth=[2], seed=1)
    assert re.fullmatch(r"depth=2-[0-9a-f]{8}", other.name)
    assert [run.name for run in quiet(train, tmp_path, depth=[2], seed=0)] == ["depth=2"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failing_configuration_is_recorded_and_stops_no_other(tmp_path: Path, workers: int) -> None:
    runs = quiet(train, tmp_path, depth=[2, 4, 8], fail=4, workers=workers)
    assert list(runs.table()["status"]) == ["finished", "failed", "finished"]
    (failed,) = runs.select(depth=4)
    assert failed.error is not None
    assert failed.error.startswith("Traceback (most recent call last):")
    assert failed.error.endswith("ValueError: depth 4 is not to my liking\n")
    assert "raise ValueError" in failed.error
    assert failed.config == {"depth": 4, "fail": 4}


def test_a_warning_says_how_many_failed_and_why(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="failed") as caught:
        runs = quiet(lambda *, out, depth: record(out, loss=1 / (depth - depth % 4)), tmp_path, depth=[2, 3, 4])
    (warning,) = caught
    assert str(warning.message) == (
        "2 of 3 runs failed; the first, 'depth=2': ZeroDivisionError: division by zero"
        " (the traceback is in runs['depth=2'].error)"
    )
    assert "Traceback" in str(runs["depth=2"].error)


def test_a_name_that_the_training_does_not_take_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError) as own:
        quiet(train, tmp_path / "sweep", dept=[2])
    assert str(own.value) == ("the training has no option 'dept'; there are: depth, seed, fail (did you mean 'depth'?)")
    with pytest.raises(UnknownNameError) as built_in:
        quiet(gs.lab.train, tmp_path / "sweep", dept=[2])
    assert str(built_in.value) == (
        "the training has no option 'dept'; there are: data, model, steps, batch_size, optimizer, lr, momentum, every,"
        " metrics, seed, name, depth, width, activation, init, norm, residual, bias, weight_var, bias_var, gain, std,"
        " dtype, kernel, hidden, pool, padding (did you mean 'depth'?)"
    )
    assert not (tmp_path / "sweep").exists()


def test_a_training_that_takes_any_name_gets_it(tmp_path: Path) -> None:
    (run,) = quiet(lambda *, out, **options: record(out, loss=options["dept"]), tmp_path, dept=[2])
    assert run.final("loss") == 2


def test_what_failed_is_trained_again_in_its_place(tmp_path: Path) -> None:
    def fragile(*, out: str, depth: int) -> None:
        record(out, loss=depth)
        if not (tmp_path / "mended").exists():
            raise RuntimeError("not yet mended")

    (broken,) = quiet(fragile, tmp_path / "sweep", depth=[2])
    assert (broken.status, broken.final("loss")) == ("failed", 2)
    (tmp_path / "mended").touch()
    (mended,) = quiet(fragile, tmp_path / "sweep", depth=[2])
    assert (mended.status, mended.error, mended.name) == ("finished", None, "depth=2")


def test_what_was_interrupted_is_trained_again_in_its_place(tmp_path: Path) -> None:
    quiet(train, tmp_path, depth=[2, 4])
    description = tmp_path / "depth=2" / "run.json"
    content = json.loads(description.read_text()) | {"status": "running", "pid": 2**22 + 1, "end": None}
    description.write_text(json.dumps(content))
    (tmp_path / "depth=2" / "left-over").touch()
    assert Run(str(tmp_path / "depth=2")).status == "interrupted"
    runs = quiet(train, tmp_path, depth=[2, 4])
    assert [run.status for run in runs] == ["finished", "finished"]
    assert not (tmp_path / "depth=2" / "left-over").exists()


def test_a_run_that_another_process_writes_is_left_alone(tmp_path: Path) -> None:
    quiet(train, tmp_path, depth=[2])
    description = tmp_path / "depth=2" / "run.json"
    content = json.loads(description.read_text()) | {
        "status": "running",
        "pid": os.getppid(),
        "pid_started": None,
    }
    description.write_text(json.dumps(content))
    folder = str(tmp_path / "depth=2")
    message = f"{folder!r} is being written by process {os.getppid()}; wait, or stop it"
    with pytest.raises(InvalidValueError, match=f"^{re.escape(message)}$"):
        quiet(train, tmp_path, depth=[2])


def test_a_training_that_leaves_its_run_open_has_failed(tmp_path: Path) -> None:
    (run,) = quiet(lambda *, out: Writer(out, metrics=()), tmp_path)
    assert run.status == "failed"
    assert run.error == "the training function left its run open; close the probe, or use it in a with block"


def test_a_training_that_writes_no_run_has_failed(tmp_path: Path) -> None:
    (run,) = quiet(lambda *, out: None, tmp_path)
    assert run.status == "failed"
    assert run.error is not None
    assert run.error.endswith(f"RunFormatError: {run.path!r} holds no run: it has no run.json\n")


def test_a_worker_that_dies_takes_no_other_run_with_it(tmp_path: Path) -> None:
    runs = quiet(die, tmp_path, depth=[1, 2, 3, 4], workers=2)
    assert [run.status for run in runs] == ["finished", "failed", "finished", "finished"]
    assert runs["depth=2"].error == DIED


def test_finished_runs_of_another_function_are_kept_with_a_warning(tmp_path: Path) -> None:
    quiet(train, tmp_path, depth=[2])
    maker, other = f"{train.__module__}:train", f"{die.__module__}:die"
    message = (
        f"finished configurations are kept, though made by {maker} and not by {other};"
        " choose another out= to train them anew"
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        quiet(die, tmp_path, depth=[2])


def test_any_executor_of_the_standard_shape_will_do(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as executor:
        runs = quiet(train, tmp_path, depth=[2, 4, 8], fail=4, executor=executor)
    assert [run.status for run in runs] == ["finished", "failed", "finished"]


def test_an_executor_that_cannot_carry_out_fails_the_run(tmp_path: Path) -> None:
    class Unwilling:
        def submit(self, fn: Any, /, *args: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(OSError("no machine is free"))
            return future

    (run,) = quiet(train, tmp_path, depth=[2], executor=Unwilling())
    assert (run.status, run.error) == ("failed", "OSError('no machine is free')")


def test_the_record_beside_a_run_says_what_it_was(tmp_path: Path) -> None:
    quiet(train, tmp_path, depth=[2])
    content = json.loads((tmp_path / "depth=2" / CONFIGURATION).read_text())
    assert content["config"] == {"depth": 2}
    assert content["train"] == f"{train.__module__}:train"
    assert len(content["digest"]) == 64


def test_the_progress_bar_counts_runs_and_failures(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    quiet(train, tmp_path, depth=[2])
    quiet(train, tmp_path, depth=[2, 4, 8], fail=8, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "3/3 1 failed" in err


def test_bad_arguments_are_named(tmp_path: Path) -> None:
    record(str(tmp_path / "run"), loss=1.0)
    folder = str(tmp_path / "run")
    with pytest.raises(InvalidTypeError, match=r"^train must be a function, not 'train'$"):
        quiet("train", tmp_path)
    message = f"{folder!r} is a run itself; choose another folder for the sweep"
    with pytest.raises(InvalidValueError, match=f"^{re.escape(message)}$"):
        quiet(train, tmp_path / "run", depth=[2])
    with pytest.raises(InvalidValueError, match=r"^workers must be at least 0, not -1$"):
        quiet(train, tmp_path, depth=[2], workers=-1)


def test_a_function_that_cannot_be_sent_is_an_error_before_anything_is_run(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:

        def bound(*, out: str, depth: int) -> None:
            file.write(out)

        with pytest.raises(GradscopeError, match=r"bound cannot be sent to worker processes \(.*\); workers=1 "):
            quiet(bound, tmp_path / "sweep", depth=[1, 2], workers=2)
    assert not (tmp_path / "sweep").exists()


SCRIPT = """
import os, sys, threading
import gradscope as gs
from gradscope.runs import Writer

def helper(out, depth):
    writer = Writer(out, metrics=())
    writer.scalars(0, {"loss": float(depth)})
    writer.flush()
    return writer

def train(*, out, depth):
    writer = helper(out, depth)
    if depth > BLOCKS_FROM:
        with open(FIFO, "w") as fifo:
            fifo.write("blocked")
        threading.Event().wait()
    writer.close()
"""


def script(tmp_path: Path, blocks_from: int, call: str) -> Path:
    path = tmp_path / "script.py"
    head = SCRIPT.replace("BLOCKS_FROM", str(blocks_from)).replace("FIFO", repr(str(tmp_path / "fifo")))
    path.write_text(head + textwrap.dedent(call))
    return path


def test_a_function_of_the_main_script_reaches_the_workers(tmp_path: Path) -> None:
    # No guard: worker processes must not run the script again, as they could not in a notebook.
    path = script(tmp_path, 99, f"runs = gs.sweep(train, {str(tmp_path / 'sweep')!r}, depth=[1, 2], progress=False)\n")
    subprocess.run([sys.executable, path], check=True, timeout=120)
    runs = gs.load(tmp_path / "sweep")
    assert isinstance(runs, Runs)
    assert [run.final("loss") for run in runs] == [1, 2]


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_leaves_every_finished_run_and_starts_no_more(tmp_path: Path, workers: int) -> None:
    out = tmp_path / "sweep"
    path = script(
        tmp_path,
        2,
        f"gs.sweep(train, {str(out)!r}, depth=[1, 2, 3, 4, 5, 6], workers={workers}, progress=False)\n",
    )
    os.mkfifo(tmp_path / "fifo")
    process = subprocess.Popen(
        [sys.executable, path],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )
    # Opening waits for the first run that blocks; by then a run has finished. The group is signalled, as by a
    # terminal.
    assert (tmp_path / "fifo").read_text().startswith("blocked")
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=120)
    runs = gs.load(out)
    assert isinstance(runs, Runs)
    status = {run.config["depth"] if run.status == "finished" else 0 for run in runs}
    kept = len([run for run in runs if run.status == "finished"])
    assert status <= {0, 1, 2}
    assert kept >= 1
    assert "depth=6" not in runs
    assert all(run.status in ("finished", "interrupted", "failed") for run in runs)
    assert (
        f"KeyboardInterrupt: sweep stopped: {kept} of 6 runs are finished and kept in {str(out)!r};"
        " the same sweep again goes on from there"
    ) in error


class Stopped(ThreadPoolExecutor):
    """Ctrl-C, before anything begins."""

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        raise KeyboardInterrupt


def test_a_sweep_stopped_before_its_first_run_points_to_no_folder(tmp_path: Path) -> None:
    text = "sweep stopped before any of 2 runs began; nothing was written"
    with Stopped() as executor, pytest.raises(KeyboardInterrupt, match=f"^{text}$"):
        sweep(lambda out, depth: None, tmp_path / "sweep", depth=[1, 2], executor=executor, progress=False)
    assert not (tmp_path / "sweep").exists()


LEAVES_SOMETHING = """
import os
from gradscope.lab.execution import processes
os.environ["PYTHONWARNINGS"] = "default"
pool = processes(1)
pool.submit(abs, -1).result()
from loky.backend import resource_tracker
resource_tracker.register("/never-unlinked", "semlock")
pool.shutdown(kill_workers=True)
print(os.environ["PYTHONWARNINGS"])
"""


def test_what_killed_workers_leave_is_no_warning() -> None:
    done = subprocess.run([sys.executable, "-c", LEAVES_SOMETHING], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "default\n", "")


def test_ctrl_c_does_not_reach_a_worker_that_starts() -> None:
    def blocked() -> set[signal.Signals]:
        return {signal.Signals(one) for one in signal.pthread_sigmask(signal.SIG_BLOCK, [])}

    class Starting:
        def submit(self, fn: Any, /, *args: Any) -> Any:
            return blocked()

    inside: Any = Processes(Starting()).submit(abs, -1)
    assert inside == {signal.SIGINT}
    assert blocked() == set()
    pool = processes(1)
    try:
        assert pool.submit(blocked).result() == set()
        assert pool.submit(signal.getsignal, signal.SIGINT).result() is signal.SIG_IGN
    finally:
        pool.shutdown(kill_workers=True)
