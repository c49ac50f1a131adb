"""The first watched training of a process is bit-identical too: what is loaded then draws no random numbers.

Whatever is loaded when a tool is first used may draw from the global generators as it is imported (rich does, from
Python's), and no test sees it that runs in a process where everything has been loaded by a test before.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAD = """
import random, sys, tempfile, warnings
import numpy as np, torch
import gradscope as gs
from torch import nn

def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

def seed():
    random.seed(1); np.random.seed(1); torch.manual_seed(1)

def net(frozen):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 3))
    model[1].train(not frozen)
    return model

x, y = torch.randn(96, 6), torch.arange(96) % 3
"""
NAMES = """
seed()
before = states()
for home in (gs, gs.lab):
    for name in home.__all__:
        getattr(home, name)
assert states() == before
"""
TRAIN = """
def train(frozen, options=None):
    model = net(frozen)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    seed()
    probe = gs.watch(model, optimizer, out=tempfile.mkdtemp() + "/run", **options) if options is not None else None
    losses = []
    for _ in range(8):
        inputs = torch.randn(16, 6) + random.random() + np.random.rand()
        loss = nn.functional.cross_entropy(model(inputs), torch.randint(3, (16,)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if probe is not None:
            probe.log(loss=loss)
    if probe is not None:
        probe.close()
    return losses, [one.tolist() for one in model.state_dict().values()], states()

frozen = sys.argv[1] == "frozen"
options = dict(
    plain=dict(every=2),
    paced=dict(every="auto"),
    everything=dict(metrics="all"),
    sample=dict(every=3, sample=(x, y), information_every=2, metrics="all"),
)[sys.argv[2]]
assert train(frozen, options) == train(frozen)
"""
AT_REST = """
model = net(False)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
parts = dict(
    predict=lambda: gs.predict(model, x),
    jacobian=lambda: gs.jacobian(model, x),
    preflight=lambda: gs.preflight(model, x, y),
    information=lambda: gs.information_of(model, x, y, metrics="all"),
    bar=lambda: gs.information.panel({"a": x.numpy()}, x.numpy(), progress=True),
    similarity=lambda: gs.similarity_of(model, x),
    noise=lambda: gs.gradient_noise(model, x, y),
    verify=lambda: gs.verify(model, optimizer, None, (x, y)),
)
seed()
before = states()
parts[sys.argv[1]]()
assert states() == before
"""


def fresh(code: str, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-c", HEAD + code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_public_name_draws_when_it_is_loaded() -> None:
    fresh(NAMES)


@pytest.mark.parametrize("frozen", ["frozen", "training"])
@pytest.mark.parametrize("options", ["plain", "paced", "everything", "sample"])
def test_the_first_watched_training_of_a_process_is_bit_identical(frozen: str, options: str) -> None:
    fresh(TRAIN, frozen, options)


@pytest.mark.parametrize(
    "part", ["predict", "jacobian", "preflight", "information", "bar", "similarity", "noise", "verify"]
)
def test_the_first_look_at_a_model_draws_nothing(part: str) -> None:
    fresh(AT_REST, part)


def test_what_draws_on_import_is_seen(tmp_path: Path) -> None:
    """The check above can fail."""
    (tmp_path / "drawing.py").write_text("import random\nrandom.random()\n")
    code = (
        f"sys.path.insert(0, {str(tmp_path)!r})\nseed()\nbefore = states()\nimport drawing\nassert states() == before"
    )
    with pytest.raises(AssertionError, match="AssertionError"):
        fresh(code)
    fresh(code.replace("import drawing", "from gradscope.loading import load; load('drawing')"))
