"""Record 100 layers x 20 and more metrics x 5,000 steps, and read them back: does recording keep up, is memory flat?

    python tests/benchmarks/ten_million.py [--steps 5000] [--out FOLDER]

Prints a row for every tenth of the run: time of a step, watched and bare, interleaved in one process, and resident
memory; then the size on disk and the time to read one metric.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradscope as gs

LAYERS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = arguments.out or Path(tempfile.mkdtemp()) / "run"
    record(folder, arguments.steps)
    read(folder)


def network() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = gs.lab.mlp(LAYERS - 1, 16, "tanh", "xavier", seed=0)
    return model, torch.optim.SGD(model.parameters(), lr=0.01)


def trainer(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], Tensor]:
    x, y = torch.rand(16, 64), torch.randint(0, 10, (16,))

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def timed(step: Callable[[], Tensor], times: int, probe: gs.Probe | None = None) -> float:
    start = time.perf_counter()
    for _ in range(times):
        loss = step()
        if probe is not None:
            probe.log(loss=loss)
    return (time.perf_counter() - start) / times * 1e3


def record(folder: Path, steps: int) -> None:
    bare, watched = trainer(*network()), network()
    with gs.watch(*watched, out=folder, every=1) as probe:
        step = trainer(*watched)
        print("steps   watched ms   bare ms   resident MB")
        for tenth in range(1, 11):
            with_probe, without = timed(step, steps // 10, probe), timed(bare, max(steps // 100, 1))
            print(f"{tenth * steps // 10:5d} {with_probe:12.2f} {without:9.2f} {resident():13.0f}", flush=True)
    print(f"share of the watched steps spent in the probe: {probe.cost:.0%}")


def read(folder: Path) -> None:
    start = time.perf_counter()
    run = gs.load(folder)
    frame = run.frame("output_grad_norm")
    seconds = time.perf_counter() - start
    values = sum(int(run.frame(metric).count().sum()) for metric in run.metrics)
    megabytes = sum(part.stat().st_size for part in folder.rglob("*") if part.is_file()) / 1e6
    print(
        f"{values / 1e6:.1f} M values, {megabytes:.0f} MB on disk; one metric ({frame.size} values) in {seconds:.2f} s"
    )


def resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


if __name__ == "__main__":
    main()
