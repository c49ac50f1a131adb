"""The peak of memory while watching: that of the training, and room for the statistics of one layer."""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from chain import Training

import gradscope as gs

SELECTIONS: dict[str, Any] = {
    "norms": ["output_grad_norm", "weight_grad_norm"],
    "default": "default",
    "histograms": ["default", "histograms"],
    "all": "all",
}


def peak_of_tensors(work: Callable[[], None]) -> int:
    """Most bytes of tensors that were alive at one time beyond those at the start, as torch's allocator tells."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        work()
    events: list[tuple[int, int]] = []
    nodes = list(profiler.profiler.kineto_results.experimental_event_tree())
    while nodes:
        node = nodes.pop()
        nodes.extend(node.children)
        if node.tag.name == "Allocation":
            events.append((node.start_time_ns, node.extra_fields.alloc_size))
    return max(itertools.accumulate(size for _, size in sorted(events, key=lambda event: event[0])))


STATISTICS = 2**20  # bytes: samples of one layer's tensors, and what is computed of them


SHAPES = {"wide": (10, 1024, 1024), "long batch": (6, 16, 2**17)}


@pytest.mark.parametrize("metrics", SELECTIONS.values(), ids=SELECTIONS)
@pytest.mark.parametrize(("depth", "width", "batch"), SHAPES.values(), ids=SHAPES)
def test_the_peak_of_tensor_memory_is_that_of_the_training(
    depth: int, width: int, batch: int, metrics: Any, tmp_path: Path
) -> None:
    def peak(watch: bool) -> int:
        training = Training(depth, width, batch)
        probe = (
            gs.watch(training.model, training.optimizer, out=tmp_path / "run", every=1, metrics=metrics)
            if watch
            else None
        )
        training.step()
        found = peak_of_tensors(training.step)
        if probe is not None:
            probe.close()
        return found

    bare = peak(False)
    assert bare > 32 * 2**20
    assert peak(True) <= 1.01 * bare + STATISTICS


RESIDENT = """
import resource, sys, torch, gradscope as gs
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(0)
layers = [layer for _ in range(6) for layer in (nn.Linear(16, 16), nn.Tanh())]
model = nn.Sequential(*layers)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
probe = gs.watch(model, optimizer, out=sys.argv[1], every=1, metrics="all")
model(torch.randn(8, 16)).sum().backward()
optimizer.step()
if sys.argv[2] == "bare":
    probe.close()
x = torch.randn(2**17, 16)
for _ in range(2):
    model(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def resident_peak(folder: Path, how: str) -> float:
    """Median peak of resident memory of three processes that have imported and done the same but for watching."""
    # Large blocks go back to the system when they are freed: what the heap keeps for later would hide the difference.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20), "OMP_NUM_THREADS": "1"}
    found = []
    for attempt in range(3):
        command = [sys.executable, "-c", RESIDENT, str(folder / f"{how}-{attempt}"), how]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        found.append(int(done.stdout))
    return statistics.median(found)


@pytest.mark.slow
def test_the_peak_of_resident_memory_is_that_of_the_training(tmp_path: Path) -> None:
    bare, watched = resident_peak(tmp_path, "bare"), resident_peak(tmp_path, "watched")
    assert watched <= 1.01 * bare + 4 * STATISTICS
