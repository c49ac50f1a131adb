"""A run without a step: what would have closed one is said, and breaks nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import gradscope as gs


def test_a_training_without_optimizer_whose_steps_never_close_is_told_so(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    text = "no step was closed although there was a backward pass: call probe.step() after it"
    probe = gs.watch(model, out=tmp_path / "run", every=1)
    model(torch.randn(8, 4)).sum().backward()
    with pytest.warns(UserWarning, match=f"^{re.escape(text)}$"):
        probe.close()
    assert probe.run.events["text"].tolist() == [text]


def test_an_optimizer_of_another_model_is_named_at_once_and_when_it_never_stepped(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    others = torch.optim.SGD(nn.Linear(4, 4).parameters(), lr=0.1)
    stranger = (
        "the optimizer given to watch, SGD, holds none of the model's parameters: is it the one that trains this model?"
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(stranger)}$"):
        probe = gs.watch(model, others, out=tmp_path / "run", every=1)
    model(torch.randn(8, 4)).sum().backward()
    text = "no step was closed although there was a backward pass: the optimizer given to watch never stepped"
    with pytest.warns(UserWarning, match=f"^{re.escape(text)}$"):
        probe.close()
    assert probe.run.events["text"].tolist() == [text]


def test_a_training_that_fails_in_its_first_step_is_not_told_what_would_have_closed_it(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    probe = gs.watch(model, out=tmp_path / "run", every=1)
    model(torch.randn(8, 4)).sum().backward()
    probe.close("failed", "ArithmeticError: ")  # warnings are errors here
    assert "error" not in set(probe.coverage()["code"])
    assert gs.load(tmp_path / "run").status == "failed"
