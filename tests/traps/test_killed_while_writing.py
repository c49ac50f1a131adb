"""Twenty trainings die by ``kill -9`` at random moments: each run loads, and nothing that was flushed is lost.

Other stores were corrupted by a writer that died (aimhubio/aim#2109). Half of the trainings die inside the writer,
right before a file is opened, renamed or removed; the others are killed from outside, soon after they reported a flush.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.dataset as arrow
import pytest

import gradscope as gs

MOMENTS = 20
# Imports once, then forks a training for each moment; prints the last step that each reported as flushed.
SCRIPT = """
import json, os, random, signal, sys
import pyarrow.parquet, torch, gradscope.lab, gradscope.probe
import gradscope as gs

WRITING = {"os.rename", "os.remove", "os.link", "os.mkdir"}

def train(folder, dies_at, report):
    seen = 0
    def strike(event, args):
        nonlocal seen
        writes = event in WRITING or (event == "open" and "w" in str(args[1]))
        if writes and str(args[0]).startswith(folder):
            seen += 1
            if seen == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(strike)
    model = gs.lab.mlp(4, 8, "tanh", inputs=8, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = gs.watch(model, optimizer, out=folder, every=1, metrics="all")
    for step in range(10**9):
        optimizer.zero_grad()
        loss = model(torch.rand(8, 8)).square().mean()
        loss.backward()
        probe.log(loss=loss)
        optimizer.step()
        if step % 2:
            probe.run  # flushes
            os.write(report, b"%d\\n" % step)

def moment(folder, seed):
    # (number of a writing operation, number of reports after which it is killed from outside)
    number = random.Random(seed)
    dies_at, reports = (number.randint(5, 200), 10**9) if seed % 2 else (10**9, number.randint(1, 30))
    reading, report = os.pipe()
    child = os.fork()
    if not child:
        train(folder, dies_at, report)
    os.close(report)
    lines = []
    with os.fdopen(reading) as stream:
        for line in stream:
            lines.append(line)
            if len(lines) == reports:
                os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    return int(lines[-1]) if lines else -1

torch.set_num_threads(1)
print(json.dumps([moment(f"{sys.argv[1]}/{seed}", seed) for seed in range(int(sys.argv[2]))]))
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, int]]:
    """Folder of each run, and the last step that its training reported as flushed (-1: none)."""
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-c", SCRIPT, str(folder), str(MOMENTS)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [(folder / str(seed), last) for seed, last in enumerate(json.loads(done.stdout))]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(MOMENTS))
def test_a_run_killed_while_it_was_written_loads_and_has_all_that_was_flushed(
    seed: int, killed: list[tuple[Path, int]]
) -> None:
    folder, last = killed[seed]
    run = gs.load(folder)
    assert isinstance(run, gs.Run)
    assert run.status == "interrupted"
    for metric in ("output_grad_norm", "weight_rms", "output_mean"):
        frame = run.frame(metric)
        assert frame.index.tolist() == list(range(len(frame)))
        assert len(frame) > last
        if len(frame):
            assert frame.shape[1] == 5
            assert np.isfinite(frame).all(axis=None)
    losses = run.scalars
    assert losses["step"].tolist() == list(range(len(losses)))
    assert len(losses) > last
    assert set(range(last + 1)) <= set(run.histograms["step"])


@pytest.mark.slow
def test_what_is_left_of_killed_runs_is_whole_for_other_readers_too(killed: list[tuple[Path, int]]) -> None:
    """A file half written has a hidden name: who globs the parts never meets one."""
    for folder, last in killed:
        parts = sorted((folder / "layers").glob("part-*.parquet")) if (folder / "layers").exists() else []
        if parts:
            steps = arrow.dataset(parts, format="parquet").to_table(["step"])["step"].to_pylist()
            assert set(range(last + 1)) <= set(steps)
