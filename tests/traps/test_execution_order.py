"""Depth is the order in which layers run; a layer that did not run has no value.

A ratio of the first to the last *registered* layer tells nothing of a network that defines them in another order, and a
layer stored as 0 because it was skipped looks like one whose gradient has vanished.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradscope as gs
from gradscope.lab.initialization import initialize


class Backwards(nn.Module):
    """Defines its layers from the head down."""

    def __init__(self, depth: int, width: int = 32) -> None:
        super().__init__()
        self.head = nn.Linear(width, 4)
        for place in reversed(range(depth)):
            self.add_module(f"layer{place}", nn.Linear(width, width))
        self.depth = depth

    def forward(self, x: Tensor) -> Tensor:
        for place in range(self.depth):
            x = torch.sigmoid(self.get_submodule(f"layer{place}")(x))
        out: Tensor = self.head(x)
        return out


def test_layers_defined_in_reverse_have_the_depth_of_their_execution(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = initialize(Backwards(8), "xavier")
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        model(torch.randn(64, 32)).square().mean().backward()
        probe.step()
    run = probe.run
    assert run.layers["layer"].tolist() == [*(f"layer{place}" for place in range(8)), "head"]
    assert run.decay(0).high < 1.0
    assert gs.diagnose(run).codes[0] == "vanishing"


class Branching(nn.Module):
    """Two branches, the one that runs second defined first."""

    def __init__(self) -> None:
        super().__init__()
        self.second, self.join, self.first, self.stem = (nn.Linear(6, 6) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        out: Tensor = self.join(torch.tanh(self.first(x)) + torch.tanh(self.second(x)))
        return out


def test_branches_have_the_depth_of_their_execution_and_their_parents(tmp_path: Path) -> None:
    model = Branching()
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        model(torch.randn(8, 6)).square().sum().backward()
        probe.step()
    layers = probe.run.layers
    assert layers["layer"].tolist() == ["stem", "first", "second", "join"]
    assert [tuple(one) for one in layers["parents"]] == [(), (1,), (1,), (2, 3)]


class Stochastic(nn.Module):
    """Residual blocks, each of which a step may leave out."""

    def __init__(self, blocks: int = 4) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(blocks))
        self.runs = [True] * blocks

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        for block, runs in zip(self.blocks, self.runs, strict=True):
            if runs:
                x = x + torch.tanh(block(x))
        out: Tensor = self.head(x)
        return out


@pytest.mark.parametrize("seed", range(3))
def test_what_was_not_executed_is_missing_and_never_zero(seed: int, tmp_path: Path) -> None:
    """Stochastic depth: which blocks run is drawn anew in each step."""
    torch.manual_seed(seed)
    model = Stochastic()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    chance = np.random.default_rng(seed)
    ran = [[True] * 4]
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1, metrics="all") as probe:
        for step in range(12):
            if step:
                ran.append((chance.random(4) < 0.6).tolist())
            model.runs = ran[-1]
            optimizer.zero_grad()
            model(torch.randn(8, 6)).square().sum().backward()
            optimizer.step()
    run = probe.run
    assert run.layers["layer"].tolist() == ["stem", *(f"blocks.{place}" for place in range(4)), "head"]
    executed = np.array([[True, *blocks, True] for blocks in ran])
    for metric in ("output_grad_norm", "output_rms", "weight_grad_norm"):
        frame = run.frame(metric)
        np.testing.assert_array_equal(frame.notna(), executed, err_msg=metric)
        assert (frame.to_numpy()[executed] > 0).all()
    # What was read of the parameters themselves does not depend on their use.
    assert run.frame("weight_rms").notna().to_numpy()[executed].all()
    assert [finding.code for finding in gs.diagnose(run)] == []
