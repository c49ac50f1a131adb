"""The import contracts hold, and each of them notices what it forbids."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NO_TORCH = "the reading half never imports torch"
NO_PLOTLY = "the recording half never imports plotly or dash"
NO_VERDICTS = "what records knows nothing of verdicts"
LAYERS = "one direction of imports"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the package as the wheel lays it out, with the dashboard inside."""
    leave = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "gradscope", tmp_path / "gradscope", ignore=leave)
    shutil.copytree(ROOT / "dashboards", tmp_path / "gradscope" / "dashboards", ignore=leave)
    return tmp_path


def contracts(tree: Path) -> tuple[int, set[str]]:
    """Check the contracts; return the exit code and the names of the broken ones."""
    tool = Path(sys.executable).with_name("lint-imports")
    command = [tool, "--config", ROOT / "pyproject.toml", "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    broken = {name for name in (NO_TORCH, NO_PLOTLY, NO_VERDICTS, LAYERS) if f"{name} BROKEN" in done.stdout}
    assert "Contracts:" in done.stdout, done.stdout + done.stderr
    return done.returncode, broken


def test_the_contracts_hold(tree: Path) -> None:
    assert contracts(tree) == (0, set())


@pytest.mark.parametrize(
    ("place", "line", "broken"),
    [
        ("runs/decay.py", "import torch", {NO_TORCH}),
        ("dashboards/state.py", "from torch import nn", {NO_TORCH}),
        ("spec.py", "from gradscope import signals", {NO_TORCH, LAYERS}),
        ("figures/style.py", "import gradscope.lab.randomness", {NO_TORCH, LAYERS}),
        ("probe/graph.py", "import plotly", {NO_PLOTLY}),
        ("metrics/numeric.py", "def late():\n    from gradscope.figures import style", {NO_PLOTLY, LAYERS}),
        ("signals.py", "import dash_mantine_components", {NO_PLOTLY}),
        ("runs/decay.py", "from gradscope import checks", {NO_VERDICTS, LAYERS}),
        ("checks/trend.py", "from gradscope import figures", {NO_PLOTLY, LAYERS}),
        ("lab/grid.py", "from gradscope import cli", {LAYERS}),
        ("newcomer.py", "import json", {LAYERS}),
    ],
)
def test_a_forbidden_import_is_noticed(tree: Path, place: str, line: str, broken: set[str]) -> None:
    path = tree / "gradscope" / place
    path.write_text(f"{path.read_text() if path.exists() else ''}\n{line}\n")
    code, found = contracts(tree)
    assert (code, found) == (1, broken)
