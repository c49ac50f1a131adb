"""Help, version, and what they do not load."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from click.testing import Result

import gradscope

Call = Callable[..., Result]


def test_help_teaches(call: Call) -> None:
    result = call("--help")
    assert result.exit_code == 0
    for text in ("Start here", "gradscope.watch(model, optimizer", "demo", "sweep", "dashboard"):
        assert text in result.output


@pytest.mark.parametrize("command", ["demo", "sweep", "check", "dashboard"])
def test_every_command_shows_examples(call: Call, command: str) -> None:
    result = call(command, "--help")
    assert result.exit_code == 0
    assert "Examples" in result.output
    assert f"gradscope {command} " in result.output


def test_no_command_shows_the_help(call: Call) -> None:
    assert "Start here" in call().output


def test_version(call: Call) -> None:
    assert call("--version").output == f"gradscope {gradscope.__version__}\n"


def test_the_help_loads_neither_torch_nor_pandas_nor_dash() -> None:
    code = (
        "import sys\n"
        "from gradscope.cli import main\n"
        "sys.argv = ['gradscope', 'demo', '--help']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit:\n"
        "    pass\n"
        "assert not {'torch', 'pandas', 'dash', 'plotly', 'sklearn'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)
