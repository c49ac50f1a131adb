"""Two halves that meet at a run: what an import may load."""

from __future__ import annotations

import subprocess
import sys

import pytest

import gradscope as gs


def loaded(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("code", "never"),
    [
        ("import gradscope", {"torch", "plotly", "dash", "pandas", "numpy"}),
        ("import gradscope as gs; gs.load, gs.Run, gs.diagnose, gs.MetricSpec", {"torch", "dash"}),
        ("import gradscope as gs; gs.figures.gradient_flow", {"torch", "dash"}),
        ("import gradscope.dashboards", {"torch"}),
        ("import gradscope as gs; gs.watch, gs.metric, gs.verify", {"plotly", "dash"}),
    ],
)
def test_what_an_import_leaves_alone(code: str, never: set[str]) -> None:
    assert not loaded(code) & never


def test_every_public_name_exists() -> None:
    for name in gs.__all__:
        assert getattr(gs, name) is not None
        assert name in dir(gs)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'gradscope' has no attribute 'wach'$"):
        gs.wach  # noqa: B018
