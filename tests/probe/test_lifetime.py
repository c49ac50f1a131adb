"""How a probe's life ends: dropped, forked, watched over, pickled, resumed by another model."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import gradscope as gs
from gradscope.errors import InvalidValueError


def test_a_probe_dropped_with_its_model_leaves_a_finished_run(tmp_path: Path) -> None:
    def train() -> None:
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        probe = gs.watch(model, out=tmp_path / "run", every=1)
        model(torch.randn(3, 4)).sum().backward()
        probe.step()

    train()
    gc.collect()
    run = gs.load(tmp_path / "run")
    assert run.status == "finished"
    assert run.frame("output_rms").shape == (1, 2)


def test_a_fork_leaves_the_run_to_its_parent(tmp_path: Path) -> None:
    script = """
import os, sys, torch, gradscope as gs
model = torch.nn.Linear(4, 2)
probe = gs.watch(model, out=sys.argv[1], every=1)
child = os.fork()
if child == 0:
    sys.exit(0)
os.waitpid(child, 0)
print(gs.load(sys.argv[1]).status)
model(torch.randn(3, 4)).sum().backward()
probe.step()
probe.close()
"""
    command = [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "running"
    assert gs.load(tmp_path / "run").frame("output_rms").shape == (1, 1)


def test_a_second_watch_where_warnings_are_errors(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    first = gs.watch(model, out=tmp_path / "first", every=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match=r"^this model was being watched already; the first probe is closed$"):
            gs.watch(model, out=tmp_path / "second")
    assert first.closed
    assert gs.load(tmp_path / "second").status == "failed"
    assert not any(module._forward_hooks for module in model.modules())


def test_a_pickle_opens_without_gradscope(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    with gs.watch(model, out=tmp_path / "run", every=1, metrics="all"):
        data = pickle.dumps(model)
    assert b"gradscope" not in data
    copy = pickle.loads(data)
    assert torch.equal(copy(torch.ones(3, 4)), copy(torch.ones(3, 4)))


def test_another_model_cannot_resume_a_run(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        model(torch.randn(3, 4)).sum().backward()
        probe.step()
    other = nn.ModuleDict({"body": nn.Linear(4, 4)})
    folder = tmp_path / "run"
    with pytest.raises(InvalidValueError) as caught:
        gs.watch(other, out=folder, resume=True)
    assert str(caught.value) == f"cannot resume {folder}: it holds layers this model lacks: 0, 1"
