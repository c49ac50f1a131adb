"""Recording needs no dashboard, reading needs no torch, and nothing is pinned to one version.

Tools that pinned old versions, or needed a compiled graph library, could not be installed next to others
(tensorwatch#42, tensorwatch#56, smdebug's protobuf, torchexplorer's Graphviz).
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

# Importing one of these fails as if it were not there. torch asks find_spec for modules and takes no exception; scipy
# looks for torch in sys.modules and takes no None.
UNIMPORTABLE = """
import sys
sys.modules.update(dict.fromkeys({absent!r}))
"""
UNFOUND = """
import importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
"""
RECORD = """
import torch, gradscope as gs
from torch import nn
model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with gs.watch(model, optimizer, out=sys.argv[1], every=1, metrics="all") as probe:
    for _ in range(3):
        model(torch.randn(8, 4)).square().sum().backward()
        probe.log(loss=1.0)
        optimizer.step()
print(len(gs.load(sys.argv[1]).frame("output_grad_norm")))
"""
READ = """
import gradscope as gs
run = gs.load(sys.argv[1])
gs.figures.gradient_flow(run).to_json()
str(gs.diagnose(run))
print(len(run.frame("output_grad_norm")))
"""
SHOWING = {"plotly", "dash", "dash_mantine_components", "dash_ag_grid", "tsdownsample", "typer", "loky", "cloudpickle"}
LEARNING = {"sklearn"}
COMPARED = {"wandb", "tensorboard", "matplotlib"}


def run_without(absent: set[str], code: str, folder: Path) -> str:
    block = UNFOUND if "torch" in absent else UNIMPORTABLE
    command = [sys.executable, "-c", block.format(absent=sorted(absent)) + code, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_recording_works_where_nothing_that_draws_is_installed(tmp_path: Path) -> None:
    assert run_without(SHOWING | LEARNING | COMPARED, RECORD, tmp_path / "run") == "3"


def test_reading_and_drawing_work_where_torch_is_not_installed(tmp_path: Path) -> None:
    run_without(COMPARED, RECORD, tmp_path / "run")
    assert run_without({"torch", "dash", "sklearn"} | COMPARED, READ, tmp_path / "run") == "3"


PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("requirement", PROJECT["dependencies"])
def test_no_dependency_is_pinned_to_one_version(requirement: str) -> None:
    assert not re.search(r"===?|~=", requirement)
    assert ">=" in requirement


def test_what_the_benchmark_compares_with_is_no_dependency() -> None:
    names = {re.split(r"[<>=\[ ]", one)[0] for one in PROJECT["dependencies"]}
    assert not names & COMPARED
