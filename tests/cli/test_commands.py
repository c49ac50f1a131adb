"""The commands, on real data at a tiny size."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from click.testing import Result
from interrupts import heed_interrupts
from rich.console import Console

import gradscope as gs
from gradscope.cli.tables import demo_table
from gradscope.runs import Runs, Writer

Call = Callable[..., Result]
TINY = ("--depth", "2,8", "--activation", "sigmoid,relu", "--init", "kaiming", "--seeds", "2", "--steps", "2")


def loaded(path: Path) -> Runs:
    runs = gs.load(path)
    assert isinstance(runs, Runs)
    return runs


def words(text: str) -> str:
    """Return a text without its line breaks."""
    return " ".join(text.split())


def test_demo_trains_shows_a_table_and_says_what_it_found(call: Call, tmp_path: Path) -> None:
    result = call("demo", "--no-serve", "--out", tmp_path / "runs", "--workers", "1", *TINY)
    assert result.exit_code == 0, result.output
    runs = loaded(tmp_path / "runs")
    assert len(runs.table()) == 8
    text = words(result.output)
    decays = sorted(run.decay().rate for run in runs.select(activation="sigmoid", depth=8))
    middle = sum(decays) / 2
    assert f"8 {middle:.3f} " in text
    assert "vanishing: interval below 1 and more than a factor of 10 in total; " in result.output
    assert (
        f"At depth 8, sigmoid with kaiming initialization multiplies the gradient by {middle:.3f} per layer"
    ) in text
    assert "Over all: vanishing in 1 of 2 cells, exploding in none." in text
    assert f"8 runs in {tmp_path / 'runs'}" in text


def test_no_column_of_the_table_is_cut_on_80_columns() -> None:
    row = {"activation": "leaky_relu", "init": "xavier", "depth": 32, "decay": 0.123, "decay_low": 0.121}
    row |= {"decay_high": 0.125, "decades": -19.5, "verdict": "vanishing 2/3"}
    console = Console(width=80, record=True, file=StringIO())
    console.print(demo_table(pd.DataFrame([row])))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert ["activation", "init", "depth", "per", "layer", "95", "%", "in", "all", "verdict"] in lines
    assert ["leaky_relu", "xavier", "32", "0.123", "0.121–0.125", "10^-19.5", "vanishing", "2/3"] in lines


def test_demo_again_goes_on_from_what_is_there(call: Call, tmp_path: Path) -> None:
    first = ("demo", "--no-serve", "--out", tmp_path, "--workers", "1", "--steps", "1", "--seeds", "1")
    small = (*first, "--activation", "tanh", "--init", "default", "--depth")
    assert call(*small, "2").exit_code == 0
    times = {run.name: os.stat(f"{run.path}/run.json").st_mtime_ns for run in loaded(tmp_path)}
    result = call(*small, "2,3")
    assert result.exit_code == 0
    assert "1 from before" in result.stderr
    after = {run.name: os.stat(f"{run.path}/run.json").st_mtime_ns for run in loaded(tmp_path)}
    assert len(after) == 2
    assert times.items() <= after.items()


def test_sweep_of_the_built_in_training(call: Call, tmp_path: Path) -> None:
    result = call(
        *("sweep", "--out", tmp_path, "--workers", "1", "--depth", "2,4", "--bias=false", "--steps", "1"),
        *("--norm", "none"),
    )
    assert result.exit_code == 0, result.output
    configs = [run.config for run in loaded(tmp_path)]
    assert [(one["depth"], one["bias"], one["norm"], one["steps"]) for one in configs] == [
        (2, False, "none", 1),
        (4, False, "none", 1),
    ]
    assert f"Look at them: gradscope dashboard {tmp_path}" in words(result.output)


SCRIPT = """
import neighbour
from gradscope.runs import Writer

def train(*, out, lr, seed=0):
    if lr > 1:
        raise ValueError(f"lr {lr} is too high")
    writer = Writer(out, metrics=())
    writer.scalars(0, {"loss": neighbour.half(lr)})
    writer.close()

constant = 3
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "neighbour.py").write_text("def half(x):\n    return x / 2\n")
    (folder / "my_training.py").write_text(SCRIPT)
    return folder / "my_training.py"


@pytest.mark.parametrize("workers", [1, 2])
def test_sweep_of_a_function_in_a_script(call: Call, tmp_path: Path, script: Path, workers: int) -> None:
    out = tmp_path / "runs"
    result = call("sweep", f"{script}:train", "--out", out, "--workers", workers, "--lr", "0.1,0.5,2")
    assert result.exit_code == 1
    runs = loaded(out)
    assert list(runs.table()["status"]) == ["finished", "finished", "failed"]
    assert [run.final("loss") for run in runs if run.status == "finished"] == [0.05, 0.25]
    assert "gradscope: lr=2 failed: ValueError: lr 2 is too high" in result.stderr
    assert f"3 runs in {out}, 1 of them failed" in words(result.output)


def test_ctrl_c_ends_with_one_line(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (tmp_path / "endless.py").write_text(
        f"import threading\ndef train(*, out):\n    open({str(fifo)!r}, 'w').close()\n    threading.Event().wait()\n"
    )
    command = [sys.executable, "-c", "from gradscope.cli import main; main()", "sweep"]
    process = subprocess.Popen(
        [*command, f"{tmp_path / 'endless.py'}:train", "--out", "runs", "--workers", "1"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )
    fifo.read_text()
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert error.splitlines()[-1] == (
        "gradscope: sweep stopped: 0 of 1 runs are finished and kept in 'runs'; the same sweep again goes on from there"
    )
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("sweep", "--dept", "2,8"),
            "the training has no option 'dept'; there are: data, model, steps, batch_size, optimizer, lr, momentum, ",
        ),
        (("sweep", "--depth"), "--depth needs a value, such as --depth 1 or --depth 1,2"),
        (("sweep", "--depth", "2", "8"), "'8' is no option: write --name value, or --name value,value"),
        (("sweep", "--depth", ","), "',' holds no value"),
        (("sweep", "--depth", "2,2"), "depth= has the value 2 twice"),
        (("sweep", "--executor", "2"), "--executor cannot be an argument of a training in a sweep\n"),
        (("sweep", "--out", "mine.py", "--depth", "2"), "'mine.py' is a file; out is a folder\n"),
        (("sweep", "--out", "mine.py/x", "--depth", "2"), "'mine.py' is a file; out is a folder\n"),
        (("dashboard", "mine.py"), "'mine.py' is a file; a run is a folder with a run.json\n"),
        (("sweep", "train.py"), "'train.py' is no function: write train.py:function"),
        (("sweep", "nowhere.py:train"), "there is no file 'nowhere.py'"),
        (("sweep", "no_such_module:train"), "cannot import 'no_such_module': No module named 'no_such_module'"),
        (("demo", "--depth", "2,,x"), "depth must be a whole number, not 'x'"),
        (("demo", "--init", "xaver"), "no initialization 'xaver'; there are: default, xavier_uniform, "),
        (("demo", "--activation", "relu,rellu"), "no activation 'rellu'; there are: identity, sigmoid, "),
        (("dashboard", "nothing-here"), "there is no folder 'nothing-here'"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine.py").touch()
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"gradscope: {message}")
    assert result.stderr.count("\n") == 1


def test_a_name_that_is_no_function_of_the_script(call: Call, script: Path) -> None:
    result = call("sweep", f"{script}:trian")
    assert result.exit_code == 2
    assert result.stderr == (f"gradscope: no function 'trian' in {script}; there are: train (did you mean 'train'?)\n")
    result = call("sweep", f"{script}:train", "--rate", "1,2")
    assert result.stderr == "gradscope: the training has no option 'rate'; there are: lr, seed\n"
    result = call("sweep", f"{script}:constant")
    assert result.stderr == f"gradscope: {script}:constant is no function, but int\n"


def test_a_sweep_over_its_own_argument_is_an_error(call: Call, script: Path) -> None:
    result = call("sweep", f"{script}:train", "--progress", "1,2")
    assert result.stderr == "gradscope: --progress cannot be an argument of a training in a sweep\n"


def test_a_sweep_into_a_run_is_an_error(call: Call, tmp_path: Path) -> None:
    Writer(str(tmp_path), metrics=()).close()
    result = call("sweep", "--out", tmp_path)
    assert result.exit_code == 2
    assert result.stderr == f"gradscope: {str(tmp_path)!r} is a run itself; choose another folder for the sweep\n"
