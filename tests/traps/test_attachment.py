"""Hooks are attached once and leave without a trace, however the watching ends.

Notebook cells that run twice pile hooks up, Ctrl-C leaves them behind (wandb#2275, wandb#1164, fastai#1950); two
models of one class collide (wandb#626, wandb#279).
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import loss_of
from shapes import SHAPES, shape
from torch import Tensor, nn

import gradscope as gs
from gradscope.at_rest.copies import Trained
from gradscope.at_rest.verification.observation import after_close


def traces(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[tuple[str, str], object]:
    """Every hook and attribute of modules, parameters and optimizer, and the settings of torch."""
    found = after_close(Trained(model, optimizer, loss_of, (None, None)))  # type: ignore[arg-type]
    return {(what, where): value for what, where, value in found if what != "random states"}


class Stop(BaseException):
    """An end that no handler of errors expects."""


ENDS: dict[str, BaseException | None] = {
    "close": None,
    "an error": RuntimeError("loss is not finite"),
    "Ctrl-C": KeyboardInterrupt(),
    "exit": SystemExit(1),
    "anything": Stop(),
}
PLACES = ("before the first step", "in forward", "in backward", "after backward", "after the step", "on a quiet step")


def interrupted(model: nn.Module, place: str, error: BaseException | None, steps: int) -> Iterator[None]:
    """Train; raise at one place of the second step."""
    inputs = model.inputs()  # type: ignore[operator]

    def fail(*_: Any) -> None:
        if error is not None:
            raise error

    last = list(model.modules())[-1]
    if place == "before the first step":
        fail()
    for step in range(steps):
        at = {"on a quiet step": 1}.get(place, 2)
        handle = last.register_forward_pre_hook(fail) if (place, step) == ("in forward", at) else None
        try:
            loss = loss_of(model(**inputs))
            if (place, step) == ("in backward", at):
                loss = loss * 1.0
                loss.register_hook(fail)
            loss.backward()
        finally:
            if handle:
                handle.remove()
        if place in ("after backward", "on a quiet step") and step == at:
            fail()
        yield
        if (place, step) == ("after the step", at):
            fail()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("end", ENDS)
def test_no_trace_is_left(end: str, place: str, tmp_path: Path) -> None:
    model = shape("residual")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = traces(model, optimizer)
    error = ENDS[end]

    def watched() -> None:
        with gs.watch(model, optimizer, out=tmp_path / "run", every=2, metrics="all"):
            for _ in interrupted(model, place, error, steps=4):
                optimizer.step()

    if error is None:
        watched()
    else:
        with pytest.raises(type(error)):
            watched()
    assert traces(model, optimizer) == before
    status = {"close": "finished", "Ctrl-C": "interrupted"}.get(end, "failed")
    assert gs.load(tmp_path / "run").status == status


@pytest.mark.parametrize("name", SHAPES)
def test_no_trace_is_left_on_any_shape(name: str, tmp_path: Path) -> None:
    model = shape(name)
    inputs = model.inputs()
    model(**inputs)
    optimizer = torch.optim.Adam([one for one in model.parameters() if one.requires_grad and not one.is_sparse])
    before = traces(model, optimizer)
    with (
        pytest.warns(UserWarning, match=r"^no step was closed .*: the optimizer given to watch never stepped$"),
        gs.watch(model, optimizer, out=tmp_path / "run", every=1, metrics="all"),
    ):
        loss_of(model(**inputs)).backward()
    assert traces(model, optimizer) == before


@pytest.mark.parametrize("times", [2, 5])
@pytest.mark.parametrize("keep", [True, False], ids=["kept", "dropped"])
def test_a_cell_that_runs_again(times: int, keep: bool, tmp_path: Path) -> None:
    """The earlier probe is closed, and hooks do not pile up."""
    model = shape("residual")
    inputs = model.inputs()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = traces(model, optimizer)
    probes: list[Any] = []
    counts = []
    for place in range(times):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            probe = gs.watch(model, optimizer, out=tmp_path / str(place), every=1)
        if keep:
            probes.append(probe)
        counts.append(sum(len(module._forward_hooks) for module in model.modules()))
        loss_of(model(**inputs)).backward()
        optimizer.step()
    assert len(set(counts)) == 1
    assert all(one.closed for one in probes[:-1])
    probe.close()
    assert traces(model, optimizer) == before
    for place in range(times):
        run = gs.load(tmp_path / str(place))
        assert (run.status, run.steps()) == ("finished", [0])


def test_the_second_watch_warns(tmp_path: Path) -> None:
    model = shape("residual")
    first = gs.watch(model, out=tmp_path / "first")
    with pytest.warns(UserWarning, match=r"^this model was being watched already; the first probe is closed$"):
        second = gs.watch(model, out=tmp_path / "second")
    assert first.closed
    second.close()
    second.close()


def test_a_probe_dropped_without_closing(tmp_path: Path) -> None:
    """The garbage collector closes what nobody holds; the model stays usable."""
    model = shape("residual")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = traces(model, optimizer)
    probe = gs.watch(model, optimizer, out=tmp_path / "run", every=1)
    loss_of(model(**model.inputs())).backward()
    optimizer.step()
    probe.close()
    del probe
    gc.collect()
    assert traces(model, optimizer) == before


@pytest.mark.parametrize("optimizers", ["one each", "one for both"])
def test_two_models_of_one_class(optimizers: str, tmp_path: Path) -> None:
    """Each has its own run, with the numbers it has alone."""
    models = [shape("residual"), shape("residual")]
    inputs = models[0].inputs()
    with torch.no_grad():
        for parameter in models[1].parameters():
            parameter.mul_(1.5)
    expected = []
    for model in models:
        model.zero_grad()
        loss_of(model(**inputs)).backward()
        expected.append([float(one.weight.grad.norm()) for one in (model.first, model.second, model.head)])
        model.zero_grad()
    both = torch.optim.SGD([*models[0].parameters(), *models[1].parameters()], lr=0.0)
    each = (
        [both, both] if optimizers == "one for both" else [torch.optim.SGD(one.parameters(), lr=0.0) for one in models]
    )
    probes = [
        gs.watch(model, one, out=tmp_path / str(place), every=1)
        for place, (model, one) in enumerate(zip(models, each, strict=True))
    ]
    for model in models:
        loss_of(model(**inputs)).backward()
    for one in dict.fromkeys(each):
        one.step()
    for probe in probes:
        probe.close()
    for probe, norms in zip(probes, expected, strict=True):
        assert probe.run.profile("weight_grad_norm").tolist() == pytest.approx(norms, rel=1e-9)
        assert probe.run.layers["layer"].tolist() == ["first", "second", "head"]


def test_a_part_and_the_whole(tmp_path: Path) -> None:
    """A part of a watched model is watched on its own, too."""
    body = nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True))
    model = nn.Sequential(body, nn.Linear(6, 2))
    with (
        gs.watch(model, out=tmp_path / "whole", every=1) as whole,
        gs.watch(body, out=tmp_path / "part", every=1) as part,
    ):
        model(torch.randn(5, 6)).square().sum().backward()
        whole.step()
        part.step()
    signals = [probe.run.frame("output_grad_norm")[1].tolist() for probe in (whole, part)]
    assert signals[0] == signals[1]


def test_users_own_hooks_stay(tmp_path: Path) -> None:
    """Hooks that others attached before, meanwhile and after keep working, in their order."""
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2))
    order: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_: order.append(name)

    handles = [model[0].register_forward_hook(note("before"))]
    model[2].register_full_backward_hook(note("backward"))
    with gs.watch(model, out=tmp_path / "run", every=1, metrics="all") as probe:
        handles.append(model[0].register_forward_hook(note("meanwhile")))
        model(torch.randn(5, 6)).sum().backward()
        probe.step()
    model[0].register_forward_hook(note("after"))
    model(torch.randn(5, 6)).sum().backward()
    assert order == ["before", "meanwhile", "backward", "before", "meanwhile", "after", "backward"]
    for handle in handles:
        handle.remove()
    out: Tensor = model(torch.randn(5, 6))
    assert out.requires_grad
    assert order[-1] == "after"
