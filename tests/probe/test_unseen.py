"""A run in which no call of a layer counted: its cause is said once, where the training ends."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import gradscope as gs

EVALUATION = (
    "no activation and no error signal was recorded in 2 recorded steps: the layers were called only in evaluation "
    "mode: call model.train() to record"
)
NO_GRAD = (
    "no activation and no error signal was recorded in 2 recorded steps: the layers were called only without gradient "
    "(no_grad)"
)


def train(probe: gs.Probe, model: nn.Module, steps: int = 1) -> None:
    for _ in range(steps):
        model(torch.randn(8, 4)).sum().backward()
        probe.step()


def closing(probe: gs.Probe, *how: str) -> list[str]:
    """Close a probe; return what it warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        probe.close(*how)
        probe.close(*how)
    return [str(one.message) for one in caught]


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))


def test_a_training_in_evaluation_mode_is_told_so_once(tmp_path: Path) -> None:
    model = net().eval()
    probe = gs.watch(model, out=tmp_path / "run", every=1)
    train(probe, model, 2)
    assert closing(probe) == [EVALUATION]
    events = probe.run.events
    assert events[["step", "kind", "text"]].to_numpy().tolist() == [[2, "probe", EVALUATION]]
    assert probe.run.frame("output_grad_norm").empty


def test_steps_without_gradient_are_told_so(tmp_path: Path) -> None:
    model = net()
    probe = gs.watch(model, out=tmp_path / "run", every=1)
    for _ in range(2):
        with torch.no_grad():
            model(torch.randn(8, 4))
        probe.step()
    assert closing(probe) == [NO_GRAD]


def test_a_training_that_failed_keeps_the_cause_without_a_warning(tmp_path: Path) -> None:
    model = net().eval()
    probe = gs.watch(model, out=tmp_path / "run", every=1)
    train(probe, model, 2)
    assert closing(probe, "failed", "ArithmeticError: ") == []
    assert probe.run.events["text"].tolist() == [EVALUATION]


def evaluates_first(probe: gs.Probe, model: nn.Module) -> None:
    train(probe, model.eval())
    train(probe, model.train())


def evaluates_last(probe: gs.Probe, model: nn.Module) -> None:
    train(probe, model.train())
    train(probe, model.eval(), 3)


def records_nothing(probe: gs.Probe, model: nn.Module) -> None:
    with torch.no_grad():
        model.eval()(torch.randn(8, 4))


def never_calls(probe: gs.Probe, model: nn.Module) -> None:
    probe.step()


@pytest.mark.parametrize("use", [evaluates_first, evaluates_last, records_nothing, never_calls])
def test_nothing_is_said_otherwise(use: Callable[[gs.Probe, nn.Module], None], tmp_path: Path) -> None:
    model = net()
    probe = gs.watch(model, out=tmp_path / "run", every=1)
    use(probe, model)
    assert closing(probe) == []
    assert probe.run.events.empty


def test_nothing_is_missed_where_parameters_alone_were_chosen(tmp_path: Path) -> None:
    model = net().eval()
    probe = gs.watch(model, out=tmp_path / "run", every=1, metrics="weight_grad_norm")
    train(probe, model, 2)
    assert closing(probe) == []
    assert probe.run.frame("weight_grad_norm").shape == (2, 2)


def test_no_step_recorded_is_no_step_missed(tmp_path: Path) -> None:
    """Evaluation between recorded steps is nobody's business: only a step that was recorded can have missed a call."""
    model = net().eval()
    with gs.watch(model, out=tmp_path / "run", every=5) as probe:
        train(probe, model.train())
    model.eval()
    again = gs.watch(model, out=tmp_path / "run", every=5, resume=True)
    train(again, model, 2)
    assert closing(again) == []
