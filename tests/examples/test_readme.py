"""What the README says is so: its Python runs, its commands exist, its links lead somewhere."""

from __future__ import annotations

import itertools
import re
import shlex
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from gradscope import checks
from gradscope.cli import app
from gradscope.metrics import registered, unregister

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    single = [command for line in lines for command in line.split("&&")]
    return [shlex.split(command) for command in single]


GRADSCOPE = [words for words in commands() if Path(words[0]).name == "gradscope"]


@pytest.fixture
def reader() -> dict[str, Any]:
    """What a reader has before gradscope comes in: a model, an optimizer, a loss, batches."""
    sizes = [8, *[16] * 6]
    hidden = [part for pair in itertools.pairwise(sizes) for part in (nn.Linear(*pair), nn.Tanh())]
    model = nn.Sequential(*hidden, nn.Linear(16, 3))
    return {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "loss_fn": nn.CrossEntropyLoss(),
        "loader": [(torch.randn(32, 8), torch.randint(0, 3, (32,))) for _ in range(21)],
    }


def test_the_python_runs_from_top_to_bottom(
    reader: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = blocks("python")
    assert len(code) == 11
    try:
        for number, block in enumerate(code, start=1):
            exec(compile(block, f"README.md, snippet {number}", "exec"), reader)
        assert {"weight_grad_max", "error_mean_share"} <= set(registered())
    finally:
        unregister("weight_grad_max")
        unregister("error_mean_share")
        checks.unregister("loud-head")
    assert reader["run"].steps() == [0, 10, 20]
    assert (reader["run"].coverage["expected"] == reader["run"].coverage["fired"]).all()
    assert {run.status for run in reader["runs"]} == {"finished"}
    assert (len(reader["runs"]), len(reader["layers"]), len(reader["losses"])) == (12, 3 * 7, 21)
    printed = capsys.readouterr().out
    assert "Watching changes nothing: 3 steps of Sequential, recorded at every step with " in printed
    assert "Diagnosis of run 'tanh-50'" in printed
    assert set(reader["forecast"]["metric"]) >= {"output_rms", "output_grad_norm"}
    assert len(reader["trials"]) == len(reader["findings"])
    assert reader["told"]["depth"].nunique() == len(reader["alike"]) ** 0.5 == 8
    pictures = ("flow.html", "map.html", "theory.html", "information.html", "similarity.html")
    assert {path.name for path in tmp_path.iterdir()} == {"runs", *pictures}


@pytest.mark.parametrize("words", GRADSCOPE, ids=lambda words: " ".join(words[1:3]))
def test_the_commands_and_their_options_exist(words: list[str]) -> None:
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(app, [words[1], "--help"], prog_name="gradscope")
    assert shown.exit_code == 0
    for option in (word for word in words if word.startswith("--")):
        assert option in shown.output


def test_every_command_is_shown() -> None:
    known = {one.callback.__name__ for one in app.registered_commands if one.callback}
    assert {words[1] for words in GRADSCOPE} == known


def test_two_commands_set_everything_up_and_the_second_is_what_ci_runs() -> None:
    first, second = (block.strip() for block in blocks("bash")[:2])
    assert first.endswith("&& .venv/bin/gradscope demo")
    assert second.endswith("&& .venv/bin/pytest")
    script = (ROOT / ".ci" / "run").read_text()
    assert re.search(r"(^| )\.venv/bin/pytest$", script.rstrip())


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).is_file(), link


def test_the_picture_is_a_light_png() -> None:
    picture = (ROOT / "examples" / "dashboard.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 300_000
    width, height = struct.unpack(">II", picture[16:24])
    assert width >= 1000
    assert height >= 600
