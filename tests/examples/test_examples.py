"""Every example runs, at a tiny size, and leaves what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import gradscope as gs
from gradscope.runs import Run, Runs

EXAMPLES = Path(__file__).parents[2] / "examples"


def start(name: str, out: Path, *options: str) -> str:
    """Run an example in a process of its own, every warning an error, and return what it prints."""
    command = [sys.executable, "-W", "error", EXAMPLES / name, "--out", out, *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out.parent, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_train_mlp_finds_the_vanishing_gradient(tmp_path: Path) -> None:
    text = start("train_mlp.py", tmp_path / "run", "--steps", "4", "--every", "2", "--depth", "8")
    run = gs.load(str(tmp_path / "run"))
    assert isinstance(run, Run)
    assert (run.status, run.steps(), run.config["activation"]) == ("finished", [0, 2], "sigmoid")
    assert gs.diagnose(run).codes[0] == "vanishing"
    assert "At step 0 each layer multiplies the gradient by 0.2" in text
    assert "CRITICAL: the gradient vanishes towards the input [vanishing]" in text


def test_train_mlp_with_relu_finds_nothing(tmp_path: Path) -> None:
    options = ["--steps", "2", "--every", "1", "--depth", "8", "--activation", "relu"]
    text = start("train_mlp.py", tmp_path / "run", *options)
    assert "nothing found" in text


def test_train_cnn_draws_two_figures_and_records_the_drop(tmp_path: Path) -> None:
    text = start("train_cnn.py", tmp_path / "run", "--steps", "6", "--every", "2")
    run = gs.load(str(tmp_path / "run"))
    assert isinstance(run, Run)
    assert list(run.layers["parents"]) == [[], [1], [1, 2], [3]]
    assert list(run.layers["activation"]) == ["relu", "relu", "relu", "identity"]
    assert list(run.layers["norm"]) == ["batch", "batch", "batch", "none"]
    events = run.events[run.events["kind"] == "user"]
    assert events[["step", "text"]].to_numpy().tolist() == [[4, "learning rate 0.01"]]
    for name in ("update_ratio.html", "zero_fraction.html"):
        assert "plotly" in (tmp_path / "run" / name).read_text()
        assert name in text


def test_depth_sweep_trains_every_cell_and_draws_the_map(tmp_path: Path) -> None:
    options = ["--depth", "2", "5", "--activation", "sigmoid", "relu", "--seeds", "1", "--steps", "2", "--workers", "1"]
    text = start("depth_sweep.py", tmp_path / "sweep", *options)
    runs = gs.load(str(tmp_path / "sweep"))
    assert isinstance(runs, Runs)
    assert sorted((run.config["activation"], run.config["depth"]) for run in runs) == [
        *[("relu", 2), ("relu", 5), ("sigmoid", 2), ("sigmoid", 5)]
    ]
    assert {run.status for run in runs} == {"finished"}
    assert (tmp_path / "sweep" / "map.html").stat().st_size > 1_000_000  # opens without a network
    assert "final_loss" in text


def test_custom_metric_is_recorded_like_any_other(tmp_path: Path) -> None:
    text = start("custom_metric.py", tmp_path / "run", "--steps", "3", "--every", "2", "--depth", "2")
    run = gs.load(str(tmp_path / "run"))
    assert isinstance(run, Run)
    frame = run.frame("largest_unit_share")
    assert frame.shape == (2, 3)
    assert ((frame > 1 / 64) & (frame <= 1)).all(axis=None)
    assert run.metrics["largest_unit_share"].group == "custom"
    assert "Share of the squared error signal that one unit carries" in text


def test_trainability_map_trains_every_cell_and_draws_the_depth_scale(tmp_path: Path) -> None:
    options = ["--depth", "2", "4", "--weight-var", "1", "2.5", "--width", "8", "--steps", "2", "--workers", "1"]
    text = start("trainability_map.py", tmp_path / "sweep", *options)
    runs = gs.load(str(tmp_path / "sweep"))
    assert isinstance(runs, Runs)
    assert sorted((run.config["depth"], run.config["weight_var"]) for run in runs) == [
        *[(2, 1.0), (2, 2.5), (4, 1.0), (4, 2.5)]
    ]
    assert {(run.status, run.config["bias_var"]) for run in runs} == {("finished", 0.05)}
    assert "of theory" in (tmp_path / "sweep" / "trainability.html").read_text()
    assert "Accuracy on held-out digits" in text


def test_information_plane_draws_both_networks_by_every_estimator(tmp_path: Path) -> None:
    text = start("information_plane.py", tmp_path / "planes", "--steps", "2", "--moments", "2")
    assert "H(X) = 12 bits, P(Y=1) = 0.487305, I(X;Y) = H(Y) = 0.999535 bits" in text
    frame = pd.read_csv(tmp_path / "planes" / "planes.csv")
    assert frame["setting"].unique().tolist() == ["10 bins", "30 bins", "100 bins", "noise of variance 0.1"]
    assert frame.groupby(["run", "step", "setting"])["depth"].apply(list).tolist() == [[1, 2, 3, 4, 5]] * 24
    assert frame.groupby("setting")["x_most"].max().round(9).to_dict() == {
        **dict.fromkeys(["10 bins", "30 bins", "100 bins"], 12.0),
        "noise of variance 0.1": 10.0,
    }
    assert "Information plane by estimator" in (tmp_path / "planes" / "planes.html").read_text()


def test_information_remedy_measures_what_is_lost_and_kept(tmp_path: Path) -> None:
    text = start("information_remedy.py", tmp_path / "remedy", "--depth", "6", "--samples", "256")
    assert "Trial of remedies for vanishing, forward-collapse" in text
    frame = pd.read_csv(tmp_path / "remedy" / "information.csv")
    assert set(frame["network"]) == {"as it is", "centered_lsuv", "critical_init"}
    told = frame[frame["depth"] == 6].pivot(index="metric", columns="network", values="value")
    for metric in ("input_information", "label_information"):
        assert told.loc[metric, "as it is"] < 1e-4
        assert told.loc[metric, ["centered_lsuv", "critical_init"]].min() > 1.0
    assert "Information over depth" in (tmp_path / "remedy" / "as_it_is.html").read_text()


def test_every_example_is_tested_and_short() -> None:
    examples = sorted(EXAMPLES.glob("*.py"))
    here = Path(__file__).read_text()
    assert len(examples) == 7
    for example in examples:
        assert f'start("{example.name}"' in here
        assert len(example.read_text().splitlines()) < 80


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: str(path.stem))
def test_an_example_explains_itself(example: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, example, "--help"], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "--out" in done.stdout
    assert list(tmp_path.iterdir()) == []
