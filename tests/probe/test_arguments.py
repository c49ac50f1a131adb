"""Bad input gets one clear error; using a probe the wrong way harms nothing."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import gradscope as gs
from gradscope.errors import (
    GradscopeError,
    InvalidTypeError,
    InvalidValueError,
    RunExistsError,
    UnknownNameError,
)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def exactly(text: str) -> str:
    return f"^{re.escape(text)}$"


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"model": nn.ReLU()}, InvalidValueError, "no layers in ReLU; watched are: Linear, Conv1d, Conv2d, Conv3d, "
         "ConvTranspose1d, ConvTranspose2d, ConvTranspose3d"),
        ({"model": "net"}, InvalidTypeError, "model is a torch.nn.Module, not str"),
        ({"layers": "head"}, UnknownNameError, "no layer 'head'; there are: 0, 2"),
        ({"layers": ["0", "x*"]}, UnknownNameError, "no layer 'x*'; there are: 0, 2"),
        ({"layers": []}, InvalidValueError, "layers= is empty; there are: 0, 2"),
        ({"layers": 3}, InvalidTypeError, "layers is a pattern, a list of patterns or a callable, not int"),
        ({"layers": lambda name, module: False}, InvalidValueError, "layers= chose none of: 0, 2"),
        ({"optimizer": 3}, InvalidTypeError, "optimizer is a torch.optim.Optimizer or a list of them, not int"),
        ({"optimizer": ["sgd"]}, InvalidTypeError, "optimizer is a torch.optim.Optimizer or a list of them, not str"),
        ({"every": 0}, InvalidValueError, "every is at least 1, not 0"),
        ({"every": 2.5}, InvalidTypeError, "every is a whole number of steps, not 2.5"),
        ({"resume": "yes"}, InvalidTypeError, "resume is True or False, not 'yes'"),
        ({"metrics": []}, InvalidValueError, "metrics is an empty list; leave it out for the default ones"),
        ({"optimizer": []}, InvalidValueError, "optimizer is an empty list; leave it out to count steps with "
         "probe.step()"),
        ({"information_every": 0}, InvalidValueError, "information_every is at least 1, not 0"),
        ({"out": 3}, InvalidTypeError, "out is a string or a path, not int"),
        ({"config": 3}, InvalidTypeError, "config is a mapping of names to values, not int"),
        ({"metrics": 3}, InvalidTypeError, "metrics is a name or a list of names, not int"),
        ({"scaler": object()}, InvalidTypeError, "scaler is a torch.amp.GradScaler, not object"),
        ({"budget": "2%"}, InvalidTypeError, "budget is a share of the time, such as 0.02, not '2%'"),
        ({"budget": True}, InvalidTypeError, "budget is a share of the time, such as 0.02, not True"),
        ({"budget": 2}, InvalidValueError, "budget is a share of the time above 0 and below 1, such as 0.02, not 2"),
        ({"budget": float("nan")}, InvalidValueError, "budget is a share of the time above 0 and below 1, such as "
         "0.02, not nan"),
        ({"sample": (1, 2)}, InvalidTypeError, "the x of sample is a tensor (samples, ...) or holds one, not int"),
        ({"every": "often"}, InvalidTypeError, "every is a whole number of steps or 'auto', not 'often'"),
        ({"model": nn.DataParallel(net())}, InvalidTypeError, "DataParallel copies the model at every step; use "
         "DistributedDataParallel, or watch model.module"),
    ],
)  # fmt: skip
def test_errors_name_what_was_given_and_what_would_be_right(
    arguments: dict[str, object], kind: type[GradscopeError], text: str, tmp_path: Path
) -> None:
    given = {"model": net(), "out": tmp_path / "run", **arguments}
    with pytest.raises(kind, match=exactly(text)):
        gs.watch(**given)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_an_unknown_metric_lists_the_choices(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError) as caught:
        gs.watch(net(), out=tmp_path / "run", metrics="output_grad_nrm")
    text = str(caught.value)
    assert text.startswith("no metric 'output_grad_nrm'; there are: default, all, histograms, activation, backward")
    assert text.endswith("(did you mean 'output_grad_norm'?)")


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path: Path) -> None:
    gs.watch(net(), out=tmp_path / "run").close()
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(RunExistsError) as caught:
        gs.watch(net(), out=tmp_path / "run")
    assert str(tmp_path / "run") in str(caught.value)
    assert "resume=True" in str(caught.value)
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_a_second_watch_closes_the_first_with_a_warning(tmp_path: Path) -> None:
    model = net()
    first = gs.watch(model, out=tmp_path / "first", every=1)
    with pytest.warns(UserWarning, match=exactly("this model was being watched already; the first probe is closed")):
        second = gs.watch(model, out=tmp_path / "second", every=1)
    assert first.closed
    assert not second.closed
    model(torch.randn(3, 4)).sum().backward()
    second.step()
    second.close()
    assert gs.load(tmp_path / "first").status == "finished"
    assert second.run.frame("output_rms").shape == (1, 2)


def test_a_second_watch_that_fails_leaves_the_first_alone(tmp_path: Path) -> None:
    model = net()
    with gs.watch(model, out=tmp_path / "first", every=1) as first, pytest.raises(UnknownNameError):
        gs.watch(model, out=tmp_path / "second", metrics="nonsense")
    with gs.watch(model, out=tmp_path / "third") as third, pytest.raises(RunExistsError):
        gs.watch(model, out=tmp_path / "first")
    assert first.closed
    assert third.closed


def test_closing_twice_and_using_a_closed_probe_is_harmless(tmp_path: Path) -> None:
    probe = gs.watch(net(), out=tmp_path / "run")
    probe.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probe.close()
    for call in (lambda: probe.log(loss=1.0), probe.step, lambda: probe.event("x")):
        with pytest.warns(UserWarning, match=r"^the probe is closed: probe\.\w+\(\) records nothing$"):
            call()
    assert probe.run.scalars.empty


def test_counting_steps_twice_is_refused(tmp_path: Path) -> None:
    model = net()
    probe = gs.watch(model, torch.optim.SGD(model.parameters(), lr=0.1), out=tmp_path / "run")
    text = "this probe counts the steps of its optimizer; call probe.step() only without one"
    with pytest.raises(InvalidValueError, match=exactly(text)):
        probe.step()
    probe.close()


def test_only_single_numbers_are_scalars(tmp_path: Path) -> None:
    probe = gs.watch(net(), out=tmp_path / "run")
    with pytest.raises(InvalidTypeError, match=exactly("scalar 'loss' is a single number, not a tensor of shape (3,)")):
        probe.log(loss=torch.zeros(3))
    for value, text in (
        ("low", "scalar 'loss' is a single number, not str"),
        (1j, "scalar 'loss' is a single number, not complex"),
        (torch.zeros((), dtype=torch.complex64), "scalar 'loss' is a single number, not a complex tensor of shape ()"),
    ):
        with pytest.raises(InvalidTypeError, match=exactly(text)):
            probe.log(loss=value)  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match=exactly("scalar 'loss' is too large for a float")):
        probe.log(loss=10**400)
    with pytest.raises(InvalidTypeError, match=exactly("step is a whole number, not 'e1'")):
        probe.log(step="e1", loss=1.0)  # type: ignore[arg-type]
    with pytest.raises(InvalidTypeError, match=exactly("step is a whole number, not 1.5")):
        probe.event("x", step=1.5)  # type: ignore[arg-type]
    probe.log(loss=1.0)
    probe.close()
    assert probe.run.scalars["value"].tolist() == [1.0]


def test_resuming_the_run_that_the_first_watch_writes(tmp_path: Path) -> None:
    model = net()
    first = gs.watch(model, out=tmp_path / "run", every=1)
    model(torch.randn(3, 4)).sum().backward()
    first.step()
    with pytest.warns(UserWarning, match=r"^this model was being watched already"):
        second = gs.watch(model, out=tmp_path / "run", every=1, resume=True)
    model(torch.randn(3, 4)).sum().backward()
    second.step()
    second.close()
    assert list(second.run.frame("output_rms").index) == [0, 1]


def test_layers_are_chosen_by_pattern_list_or_callable(tmp_path: Path) -> None:
    model = nn.ModuleDict({"body": net(), "head": nn.Linear(2, 2)})
    choices = {"body.*": 2, "*": 3, "head": 1}
    for place, (pattern, count) in enumerate(choices.items()):
        with gs.watch(model, out=tmp_path / str(place), layers=pattern) as probe:
            assert sum(probe.coverage()["code"] == "not_yet") == count
    with gs.watch(model, out=tmp_path / "list", layers=["head", "body.0"]) as probe:
        assert list(probe.coverage()["layer"]) == ["body.0", "head", "body.2"]
    with gs.watch(model, out=tmp_path / "call", layers=lambda name, layer: layer.out_features == 2) as probe:
        assert list(probe.coverage()["layer"]) == ["body.2", "head", "body.0"]
    texts = ["no step has been recorded yet"] * 2 + ["left out by layers="]
    assert list(probe.coverage()["text"]) == texts


def test_without_out_a_new_folder_under_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    gs.watch(net()).close()
    gs.watch(net()).close()
    gs.watch(net(), name="mine").close()
    assert len(gs.load("runs")) == 3
    assert gs.load("runs/mine").name == "mine"


def test_layers_that_never_ran_are_said_to_be_so(tmp_path: Path) -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare, self.side = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.side(x)
            return self.used(x)

    model = Unused()
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        model(torch.randn(2, 4)).sum().backward()
        probe.step()
    found = probe.run.coverage.set_index("layer")
    assert found["code"].to_dict() == {"used": "recorded", "spare": "never_called", "side": "unused"}
    assert found.loc["side", "text"] == "not part of the loss: no gradient arrived, of its output or of its weight"
    assert list(probe.run.rows("output_grad_norm")["layer"]) == ["used"]


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("eval", "called only in evaluation mode: call model.train() to record"),
        (
            "no_grad",
            "called only without gradient (no_grad)",
        ),
    ],
)
def test_layers_that_ran_but_do_not_count_are_said_to_be_so(how: str, text: str, tmp_path: Path) -> None:
    model = net()
    probe = gs.watch(model, out=tmp_path / "run", every=1)
    model.train(how != "eval")
    with torch.set_grad_enabled(how != "no_grad"):
        model(torch.randn(2, 4))
    probe.step()
    with pytest.warns(UserWarning, match=f"{re.escape(text)}$"):
        probe.close()
    assert probe.coverage()["code"].tolist() == ["uncounted", "uncounted"]
    assert probe.coverage()["text"].unique().tolist() == [text]
    assert probe.run.layers.empty
