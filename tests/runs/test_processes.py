"""Real processes: killed while writing, writing together, read while they write."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gradscope.runs import Run, Writer
from gradscope.runs.process import Process
from gradscope.spec import MetricSpec

SCRIPT = Path(__file__).with_name("writing_process.py")
FOREVER = 10**9


def start(folder: Path, rank: int = 0, steps: int = FOREVER, flush_every: int = 3) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), str(folder), str(rank), str(steps), str(flush_every)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def acknowledged(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


@pytest.mark.parametrize("seed", range(20))
def test_kill_9_loses_nothing_that_was_flushed(tmp_path: Path, seed: int) -> None:
    flushes = random.Random(seed).randint(1, 150)  # any moment of parts, merges and run.json
    process = start(tmp_path / "run")
    for _ in range(flushes):
        last = acknowledged(process)
    assert Run(str(tmp_path / "run")).status == "running"
    process.send_signal(signal.SIGKILL)
    # What it said before it died but was not read yet is acknowledged as well.
    rest = process.communicate()[0].split("\n")
    last = max([last, *(int(one) for one in rest[:-1])])
    run = Run(str(tmp_path / "run"))
    assert run.status == "interrupted"
    frame = run.frame("a")
    assert frame.index.tolist() == list(range(len(frame)))
    assert len(frame) > last
    assert (frame.sub(frame.index, axis=0) == 0.0).all(axis=None)
    assert frame.shape[1] == 5


def test_a_killed_run_can_be_resumed(tmp_path: Path) -> None:
    process = start(tmp_path / "run")
    last = acknowledged(process)
    process.kill()
    process.communicate()
    before = Run(str(tmp_path / "run")).steps()
    writer = Writer(str(tmp_path / "run"), metrics=[MetricSpec("a", "A"), MetricSpec("b", "B")], resume=True)
    assert writer.next_step == before[-1] + 1 > last
    assert [one.layer for one in writer.layers] == ["l0", "l1", "l2", "l3", "l4"]
    assert Run(str(tmp_path / "run")).status == "running"
    writer.close()
    assert Run(str(tmp_path / "run")).status == "finished"


def test_ranks_write_into_one_folder(tmp_path: Path) -> None:
    processes = [start(tmp_path / "run", rank, steps=120, flush_every=1) for rank in (0, 1, 2)]
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    run = Run(str(tmp_path / "run"))
    assert run.status == "finished"
    for rank in (0, 1, 2):
        frame = run.frame("a", rank=rank)
        assert frame.shape == (120, 5)
        assert frame[1].tolist() == [step + rank / 10 for step in range(120)]
        assert run.steps(rank=rank) == list(range(120))
    assert run.rows("a")["value"].max() == 119.0  # rank 0 unless said otherwise


def test_a_reader_never_sees_less_than_before(tmp_path: Path) -> None:
    """Parts appear, merge and vanish under the reader; it sees whole prefixes of the steps, and grows."""
    process = start(tmp_path / "run", steps=1500, flush_every=1)
    assert process.stdout is not None
    process.stdout.readline()
    run = Run(str(tmp_path / "run"))
    seen, reads = 0, 0
    while process.poll() is None:
        run.refresh()
        steps = run.steps("a" if reads % 2 else "b")
        assert steps == list(range(len(steps)))
        assert len(steps) >= seen
        seen, reads = len(steps), reads + 1
        fresh = Run(str(tmp_path / "run")).steps("a")
        assert fresh == list(range(len(fresh)))
    process.communicate()
    run.refresh()
    assert run.steps("a") == run.steps("b") == list(range(1500))
    assert reads > 3


def test_single_steps_are_read_while_three_ranks_write(tmp_path: Path) -> None:
    """Views of one step look for its row group among parts that appear, merge and vanish."""
    processes = [start(tmp_path / "run", rank, steps=400, flush_every=1) for rank in (0, 1, 2)]
    last = {rank: acknowledged(process) for rank, process in enumerate(processes)}
    run, reads = Run(tmp_path / "run"), 0
    while any(process.poll() is None for process in processes):
        run.refresh()
        for rank, process in enumerate(processes):
            assert run.profile("b", last[rank], rank=rank).tolist() == [last[rank] + rank / 10] * 5
            assert Run(tmp_path / "run").profile("a", rank=rank).tolist() == [rank / 10] * 5
            assert process.stdout is not None
            if line := process.stdout.readline():
                last[rank] = int(line)
        reads += 1
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    run.refresh()
    for rank in (0, 1, 2):
        assert run.profile("a", 399, rank=rank).tolist() == [399 + rank / 10] * 5
        assert run.steps("b", rank=rank) == list(range(400))
    assert reads > 3


def test_a_living_process_is_known_by_number_and_start() -> None:
    me = Process.this()
    assert me.pid == os.getpid()
    assert me.alive() is True
    assert Process(me.pid, None).alive() is True
    assert me.started is None or Process(me.pid, me.started + 1).alive() is False


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"], stdout=subprocess.PIPE)
    process = Process(child.pid, None)
    assert child.stdout is not None
    child.stdout.read()  # until it has ended; it is not waited for yet
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process.alive() is False
    child.wait()
    child.stdout.close()
    assert process.alive() is False
