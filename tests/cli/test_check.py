"""gradscope check, on a script and on runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from junitparser import JUnitXml
from torch import nn

import gradscope as gs

Call = Callable[..., Result]

SCRIPT = """
import torch
from torch import nn

import gradscope as gs


def healthy():
    return gs.lab.mlp(depth=8, activation="relu", init="kaiming")


def sick():
    return gs.lab.mlp(depth=12, activation="sigmoid", init="xavier")


def with_batch():
    return sick(), torch.randn(64, 64), torch.arange(64) % 10


def images():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


def regression():
    model = gs.lab.mlp(depth=4, activation="tanh", init="xavier", outputs=1)
    return model


def broken():
    raise RuntimeError("no data")


def picky(depth):
    return sick()


def wrong():
    return "a model"


def tagged():
    return nn.Sequential(nn.Embedding(4, 4), nn.Linear(4, 2))


NOT_A_FUNCTION = 3
MODEL = nn.Sequential(*(one for _ in range(9) for one in (nn.Linear(16, 16), nn.Sigmoid())), nn.Linear(16, 3))
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    return path


@pytest.mark.parametrize(("function", "code"), [("healthy", 0), ("sick", 1), ("with_batch", 1)])
def test_the_exit_code_tells_a_sick_model_from_a_healthy_one(
    call: Call, script: Path, function: str, code: int
) -> None:
    result = call("check", f"train.py:{function}")
    assert result.exit_code == code, result.output
    assert ("[vanishing]" in result.output) == bool(code)


def test_a_model_may_stand_in_place_of_a_function(call: Call, script: Path) -> None:
    result = call("check", "train.py:MODEL")
    assert result.exit_code == 1
    assert "[vanishing]" in result.output
    report = json.loads(call("check", "train.py:MODEL", "--format", "sarif").output)
    place = report["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": "train.py"}, "region": {"startLine": 1}}


def test_the_verdict_of_a_seed_is_the_same_twice(call: Call, script: Path) -> None:
    one, two, other = (call("check", "train.py:sick", "--seed", seed).output for seed in (1, 1, 2))
    assert one == two != other


def test_what_is_bad_enough_can_be_chosen(call: Call, script: Path) -> None:
    assert call("check", "train.py:sick", "--fail-on", "never").exit_code == 0
    assert call("check", "train.py:sick", "--fail-on", "critical").exit_code == 1


def test_a_convolutional_net_is_given_its_shape(call: Call, script: Path) -> None:
    without = call("check", "train.py:images")
    assert without.exit_code == 2
    assert " ".join(without.output.split()) == (
        "gradscope: the model of train.py:images begins with Conv2d, which does not tell the shape of a sample: "
        "give --shape, such as --shape 3,32,32, or return (model, x, y)"
    )
    assert call("check", "train.py:images", "--shape", "3,8,8", "--fail-on", "never").exit_code == 0


def test_a_report_is_written_beside_the_letter(call: Call, script: Path) -> None:
    result = call("check", "train.py:sick", "--format", "junit", "--output", "reports/gradients.xml")
    assert result.exit_code == 1
    assert "CRITICAL: the gradient vanishes towards the input [vanishing]" in result.output
    (suite,) = JUnitXml.fromfile("reports/gradients.xml")
    assert suite.failures >= 1
    line = next(number for number, text in enumerate(SCRIPT.splitlines(), 1) if text == "def sick():")
    result = call("check", "train.py:sick", "--format", "sarif")
    place = json.loads(result.output)["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": "train.py"}, "region": {"startLine": line}}


def test_runs_are_diagnosed(call: Call, tmp_path: Path) -> None:
    for name, activation in (("deep", "sigmoid"), ("fine", "relu")):
        init = "xavier" if activation == "sigmoid" else "kaiming"
        gs.lab.train(out=tmp_path / "runs" / name, depth=10, activation=activation, init=init, steps=3)
    both = call("check", tmp_path / "runs", "--format", "json")
    assert both.exit_code == 1
    assert [one["name"] for one in json.loads(both.output)] == ["deep", "fine"]
    assert "vanishing" in [one["code"] for one in json.loads(both.output)[0]["findings"]]
    assert call("check", tmp_path / "runs" / "deep").exit_code == 1


def test_a_regression_gets_numbers_as_targets(call: Call, script: Path) -> None:
    assert call("check", "train.py:regression", "--fail-on", "never").exit_code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nothing",), "'nothing' is neither a run, nor a folder of runs, nor script.py:function"),
        (("empty",), "'empty' holds no run: no run.json in it or in 3 levels below"),
        (("train.py:picky",), "train.py:picky is called without arguments, but needs depth"),
        (
            ("train.py:wrong",),
            "train.py:wrong returns a model, (model, x), (model, x, y) or (model, x, y, loss_fn), not str",
        ),
        (("train.py:sick", "--shape", "3x2"), "--shape is the shape of one sample, such as 784 or 3,32,32, not '3x2'"),
        (("train.py:NOT_A_FUNCTION",), "train.py:NOT_A_FUNCTION is no function, but int"),
        (("train.py:sick", "--output", "train.py/report"), "cannot write 'train.py/report': File exists"),
    ],
)
def test_what_cannot_be_examined_is_said(call: Call, script: Path, words: tuple[str, ...], message: str) -> None:
    Path("empty").mkdir()
    result = call("check", *words)
    assert result.exit_code == 2
    assert " ".join(result.output.split()) == f"gradscope: {message}"


def test_an_error_of_the_function_is_shown_whole(call: Call, script: Path) -> None:
    result = call("check", "train.py:broken")
    assert result.exit_code == 2
    assert result.output.startswith("gradscope: train.py:broken failed:\nTraceback")
    assert result.output.rstrip().endswith("RuntimeError: no data")


def test_a_run_is_not_touched(call: Call, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        model(torch.randn(8, 4)).sum().backward()
        probe.step()
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    call("check", tmp_path / "run")
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
