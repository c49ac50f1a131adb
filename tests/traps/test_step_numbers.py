"""A value belongs to one step, and stays there: explicit steps, resumed runs, loops that log many times.

Loggers that count their own calls drift from the steps of the training, and a resumed run begins to count anew or
stores a step twice (NeMo-RL#83).
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gradscope as gs
from gradscope.errors import RunExistsError


def training() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def advance(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 1) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 6)).square().sum().backward()
        optimizer.step()


def opened(folder: Path) -> gs.Run:
    run = gs.load(folder)
    assert isinstance(run, gs.Run)
    return run


def logged(run: gs.Run, name: str) -> list[tuple[int, float]]:
    rows = run.scalars[run.scalars["name"] == name]
    return list(zip(rows["step"].tolist(), rows["value"].tolist(), strict=True))


def test_a_reinforcement_loop_logs_often_and_steps_seldom(tmp_path: Path) -> None:
    """Episodes, evaluations and losses come at their own pace; the step is the optimizer's."""
    model, optimizer = training()
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1) as probe:
        for update in range(4):
            for episode in range(5):
                with torch.no_grad():
                    model(torch.randn(1, 6))
                probe.log(reward=10 * update + episode)
            advance(model, optimizer, steps=2)
            probe.log(loss=update)
    run = probe.run
    assert run.steps() == list(range(8))
    assert logged(run, "loss") == [(1, 0.0), (3, 1.0), (5, 2.0), (7, 3.0)]
    # Before the first step there is only step 0; later a reward belongs to the step just closed.
    assert [step for step, _ in logged(run, "reward")] == [0] * 5 + [1] * 5 + [3] * 5 + [5] * 5


def test_an_explicit_step_is_obeyed_in_any_order(tmp_path: Path) -> None:
    model, optimizer = training()
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1) as probe:
        advance(model, optimizer, steps=3)
        for step in (2, 0, 7, 1):
            probe.log(step=step, accuracy=step / 10)
        probe.event("late remark", step=1)
        advance(model, optimizer)
        probe.log(accuracy=0.5)
    run = probe.run
    assert sorted(logged(run, "accuracy")) == [(0, 0.0), (1, 0.1), (2, 0.2), (3, 0.5), (7, 0.7)]
    assert run.steps() == [0, 1, 2, 3]
    assert run.events["step"].tolist() == [1]


ENDS: dict[str, Any] = {"finished": None, "failed": ValueError("bad data"), "interrupted": KeyboardInterrupt()}


@pytest.mark.parametrize("status", ENDS)
def test_a_resumed_run_goes_on_counting_however_it_ended(status: str, tmp_path: Path) -> None:
    model, optimizer = training()
    for part in range(3):
        try:
            with gs.watch(model, optimizer, out=tmp_path / "run", every=2, resume=part > 0) as probe:
                for _ in range(5):
                    advance(model, optimizer)
                    probe.log(part=part)
                if ENDS[status] is not None:
                    raise ENDS[status]
        except (ValueError, KeyboardInterrupt):
            pass
        assert opened(tmp_path / "run").status == status
    run = opened(tmp_path / "run")
    assert run.steps() == [0, 2, 4, 6, 8, 10, 12, 14]
    assert logged(run, "part") == [(step, step // 5) for step in range(15)]


KILLED = """
import os, signal, sys, torch, gradscope as gs
from torch import nn
model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
probe = gs.watch(model, optimizer, out=sys.argv[1], every=1)
for step in range(9):
    model(torch.randn(4, 6)).square().sum().backward()
    optimizer.step()
    if step == 6:
        probe.run  # flushes
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_resumed_after_kill_9_has_no_step_twice(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "run")], capture_output=True)
    left = opened(tmp_path / "run")
    assert left.status == "interrupted"
    first = len(left.steps())
    assert first >= 7
    model, optimizer = training()
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1, resume=True) as probe:
        advance(model, optimizer, steps=3)
    frame = probe.run.frame("output_grad_norm")
    assert frame.index.tolist() == list(range(first + 3))
    assert frame.index.is_unique


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
def test_a_second_run_in_the_same_folder_is_refused(closed: bool, tmp_path: Path) -> None:
    model, optimizer = training()
    folder = tmp_path / "run"
    probe = gs.watch(model, optimizer, out=folder, every=1)
    advance(model, optimizer)
    if closed:
        probe.close()
    other, its = training()
    message = f"{str(folder)!r} already holds a run; choose another folder, or resume=True"
    with pytest.raises(RunExistsError, match=f"^{re.escape(message)}$"):
        gs.watch(other, its, out=folder, every=1)
    probe.close()
    assert opened(folder).steps() == [0]
