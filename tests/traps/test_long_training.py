"""500 steps with everything on: memory stays flat. Peers' users lost theirs to kept graphs and activations.

opacus#176, pytorch#74831, pytorch#82528, wandb#2644: what a hook keeps, it keeps for every step.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import gc, json, sys, torch, gradscope as gs
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(0)
how = sys.argv[2]
model = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(),
    nn.Linear(128, 128), nn.LayerNorm(128), nn.Tanh(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 10),
)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
x, y = torch.randn(64, 1, 8, 8), torch.randint(0, 10, (64,))
found = []
with gs.watch(model, optimizer, out=sys.argv[1], every=1, metrics="all") as probe:
    for step in range(501):
        loss = nn.functional.cross_entropy(model(x), y)
        if how == "graph of the gradient":
            squares = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
            loss = loss + sum(one.square().sum() for one in squares)
        loss.backward()
        probe.log(loss=loss)
        optimizer.step()
        optimizer.zero_grad()
        if how == "forward only":
            model(x)
            with torch.no_grad():
                model(x)
        if step % 100 == 0:
            del loss
            probe.run  # flushes
            gc.collect()
            tensors = sum(isinstance(one, torch.Tensor) for one in gc.get_objects())
            with open("/proc/self/statm") as file:
                found.append((tensors, len(gc.get_objects()), int(file.read().split()[1]) * 4096))
print(json.dumps(found))
"""
MEBIBYTE = 2**20


@pytest.mark.slow
@pytest.mark.parametrize("how", ["plain", "forward only", "graph of the gradient"])
def test_memory_is_flat_over_500_steps_with_everything_on(how: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path / "run"), how], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tensors, objects, resident = zip(*json.loads(done.stdout), strict=True)
    # From step 100 on: by then the first parts are merged and every cache is filled.
    assert len(set(tensors[1:])) == 1, tensors
    assert max(objects[1:]) - objects[1] < 5000, objects
    assert max(resident[1:]) - resident[1] < 16 * MEBIBYTE, [one / MEBIBYTE for one in resident]
