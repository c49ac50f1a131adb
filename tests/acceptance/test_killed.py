"""A training that dies leaves a run that loads; one that goes on is read while it is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gradscope as gs

SCRIPT = """
import sys, torch, gradscope as gs
model = gs.lab.mlp(6, 16, "tanh", seed=0)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
probe = gs.watch(model, optimizer, out=sys.argv[1], every=2)
for step in range(10**9):
    optimizer.zero_grad()
    loss = model(torch.rand(8, 64)).square().mean()
    loss.backward()
    optimizer.step()
    probe.log(loss=loss)
    if step % 20 == 10:
        probe.run  # flushes
        print(step, flush=True)
"""


def test_a_killed_training_leaves_an_interrupted_run(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(3)]
        live = gs.load(tmp_path / "run")
        assert live.status == "running"
        seen = list(live.frame("output_grad_norm").index)
        acknowledged += [int(process.stdout.readline()) for _ in range(2)]
        assert live.refresh()
        grown = list(live.frame("output_grad_norm").index)
        process.kill()
    assert seen[: acknowledged[2] // 2 + 1] == list(range(0, acknowledged[2] + 1, 2))
    assert len(grown) > len(seen)
    run = gs.load(tmp_path / "run")
    assert run.status == "interrupted"
    steps = list(run.frame("output_grad_norm").index)
    assert steps == list(range(0, steps[-1] + 1, 2))
    assert steps[-1] >= acknowledged[-1]
    assert (run.frame("output_grad_norm").notna()).all(axis=None)
    assert list(run.layers["depth"]) == list(range(1, 8))


def test_a_script_that_ends_without_closing_leaves_a_finished_run(tmp_path: Path) -> None:
    for error, status in (("", "finished"), ("raise ValueError('bad data')", "failed")):
        folder = tmp_path / status
        script = SCRIPT.replace("10**9", "5") + error
        subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, check=not error)
        run = gs.load(folder)
        assert (run.status, run.error) == (status, "ValueError: bad data" if error else None)
        assert list(run.frame("output_grad_norm").index) == [0, 2, 4]
