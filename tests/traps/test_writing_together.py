"""Several processes, one place: stores without locks that do not get mixed up.

Concurrent writers corrupted the store of another tool (aim#2109); models of one class collided on their keys
(wandb#626, wandb#279).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import gradscope as gs

# Waits until all are ready, then opens its run: what races, races here.
SCRIPT = """
import sys, torch, gradscope as gs, gradscope.probe, gradscope.lab
folder, seed = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
model = gs.lab.mlp(3, 8, "tanh", inputs=8, seed=seed)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
x = torch.rand(8, 8)
print("ready", flush=True)
sys.stdin.readline()
try:
    probe = gs.watch(model, optimizer, out=folder, every=1, config={"seed": seed})
except gs.GradscopeError as error:
    print(type(error).__name__, flush=True)
    raise SystemExit(0)
for step in range(30):
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()
    probe.log(seed=seed)
    if step % 3 == 0:
        probe.run  # flushes
        print(step, flush=True)
probe.close()
print("done", flush=True)
"""


def start_together(folders: list[Path]) -> list[subprocess.Popen[str]]:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(folder), str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed, folder in enumerate(folders)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return processes


def test_three_trainings_write_below_one_root_while_it_is_read(tmp_path: Path) -> None:
    processes = start_together([tmp_path / f"run-{seed}" for seed in range(3)])
    seen: list[int] = []
    for process in processes:
        assert process.stdout is not None
        for line in process.stdout:
            runs = gs.load(tmp_path)
            assert isinstance(runs, gs.Runs)
            seen.append(sum(len(run.frame("output_grad_norm")) for run in runs))
            if line == "done\n":
                break
    assert seen == sorted(seen)
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    runs = gs.load(tmp_path)
    assert isinstance(runs, gs.Runs)
    assert len(runs) == 3
    for seed in range(3):
        run = runs[f"run-{seed}"]
        assert run.status == "finished"
        assert run.steps() == list(range(30))
        assert set(run.scalars["value"]) == {seed}
        assert run.config["seed"] == seed


def test_one_folder_belongs_to_the_first_of_three(tmp_path: Path) -> None:
    processes = start_together([tmp_path / "run"] * 3)
    said = [process.communicate()[0].split() for process in processes]
    assert sorted(lines[-1] for lines in said) == ["RunExistsError", "RunExistsError", "done"]
    run = gs.load(tmp_path / "run")
    assert isinstance(run, gs.Run)
    assert run.steps() == list(range(30))
    assert len(set(run.scalars["value"])) == 1


@pytest.mark.parametrize("named", [True, False], ids=["names", "folders"])
def test_two_models_of_one_class_stay_apart(named: bool, tmp_path: Path) -> None:
    """Two probes in one process, whose layers have the same names: a GAN, a teacher and its pupil."""
    first, second = (nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)) for _ in range(2))
    names = ["teacher", "pupil"] if named else [None, None]
    probes = [
        gs.watch(model, out=tmp_path / str(place), every=1, name=names[place])
        for place, model in enumerate((first, second))
    ]
    norms = []
    for factor, model, probe in zip((1.0, 1000.0), (first, second), probes, strict=True):
        (factor * model(torch.randn(8, 4))).sum().backward()
        probe.step()
        weight = model[0].weight
        assert isinstance(weight, nn.Parameter)
        assert weight.grad is not None
        norms.append(float(weight.grad.norm()))
        probe.close()
    runs = gs.load(tmp_path)
    assert isinstance(runs, gs.Runs)
    assert [run.name for run in runs] == (["teacher", "pupil"] if named else ["0", "1"])
    recorded = [run.profile("weight_grad_norm")[1] for run in runs]
    np.testing.assert_allclose(recorded, norms, rtol=1e-6)
