"""What the probe has seen stays seen: whatever becomes of a tensor's memory afterwards, and of a pass that fails."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import gradscope as gs
from gradscope.probe.backlog import PATIENT_HISTOGRAMS, PATIENT_PILES, UNWRITTEN_HISTOGRAMS
from gradscope.probe.piles import SMALL


class Reusing(torch.autograd.Function):
    """Hands on every gradient in one buffer of its own, as hand-written kernels do."""

    buffer = torch.zeros(5, 8)

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        Reusing.buffer.data.copy_(grads[0])
        return Reusing.buffer


class Buffered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(Reusing.apply(layer(x)))
        return x


def plain(width: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 4))


def free(hidden: Tensor) -> None:
    hidden.untyped_storage().resize_(0)


def overwrite(hidden: Tensor) -> None:
    hidden.data.zero_()


@pytest.mark.parametrize("width", [8, SMALL])
@pytest.mark.parametrize("change", [free, overwrite])
def test_an_activation_may_be_given_back_or_overwritten_after_the_backward_pass(
    change: Callable[[Tensor], None], width: int, tmp_path: Path
) -> None:
    model = plain(width)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    expected = []
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1) as probe:
        for _ in range(3):
            optimizer.zero_grad()
            hidden = model[1](model[0](torch.randn(5, 6)))
            model[2](hidden).square().mean().backward()
            expected.append(float(hidden.detach().mean()))
            change(hidden)
            optimizer.step()
    np.testing.assert_allclose(probe.run.frame("activation_mean")[1], expected, rtol=1e-4)


def test_a_function_that_hands_every_gradient_on_in_one_buffer(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model, caught = Buffered(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for layer in model.layers:
        layer.register_forward_hook(
            lambda _module, _args, out: out.register_hook(lambda grad: caught.append(float(grad.norm()))) and None
        )
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1) as probe:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(5, 8)).square().sum().backward()
            optimizer.step()
    expected = np.asarray(caught).reshape(3, 4)[:, ::-1]
    np.testing.assert_allclose(probe.run.frame("output_grad_norm"), expected, rtol=1e-5)


class Tied(nn.Module):
    """An embedding with sparse gradients lends its weight to a layer, beside a layer with a dense one."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8, sparse=True)
        self.tied = nn.Linear(8, 20, bias=False)
        self.tied.weight = self.embedding.weight
        self.out = nn.Linear(8, 20)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embedding(ids).mean(1)
        self.tied(hidden.detach()).detach()
        return self.out(hidden)


def test_sparse_and_dense_gradients_of_one_shape_are_told_apart(tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = Tied()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    expected = []
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1) as probe:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randint(0, 20, (4, 5))).square().mean().backward()
            gradients = [model.tied.weight.grad, model.out.weight.grad]
            expected.append([float(grad.to_dense().norm()) for grad in gradients if grad is not None])
            optimizer.step()
    frame = probe.run.frame("weight_grad_norm")
    by_name = dict(zip(probe.run.layers["layer"], probe.run.layers["depth"], strict=True))
    np.testing.assert_allclose(frame[[by_name["tied"], by_name["out"]]], expected, rtol=1e-5)


class Branching(nn.Module):
    """The second branch gets a gradient at every other step only."""

    def __init__(self) -> None:
        super().__init__()
        self.b, self.c, self.h = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(8, 3)
        self.step = 0

    def forward(self, x: Tensor) -> Tensor:
        other = torch.tanh(self.c(x))
        other = other.detach() if self.step % 2 == 0 else other
        self.step += 1
        return self.h(torch.cat([self.b(x), other], 1))


def test_a_branch_that_comes_and_goes_keeps_its_metrics(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = Branching()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1) as probe:
        for _ in range(6):
            optimizer.zero_grad()
            model(torch.randn(5, 6)).square().mean().backward()
            optimizer.step()
    run = probe.run
    by_name = dict(zip(run.layers["layer"], run.layers["depth"], strict=True))
    for metric in ("activation_mean", "slope_rms", "next_input_grad_norm"):
        assert run.frame(metric)[by_name["c"]].notna()[1::2].all(), metric


def test_a_gradient_halved_in_place_by_a_hook_gives_no_wrong_contribution(tmp_path: Path) -> None:
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1) as probe:
        for _ in range(2):
            optimizer.zero_grad()
            hidden = model[1](model[0](torch.randn(5, 6)))
            hidden.register_hook(_halve)
            model[2](hidden).square().mean().backward()
            optimizer.step()
    frame = probe.run.frame("input_grad_norm")
    assert 2 not in frame or frame[2].isna().all()


def _halve(grad: Tensor) -> None:
    grad.mul_(0.5)


def test_a_backward_pass_that_raised_is_no_part_of_the_step(tmp_path: Path) -> None:
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(5, 6)

    def stop(_: Tensor) -> None:
        raise MemoryError("on purpose")

    reference = copy.deepcopy(model)
    reference(x).square().mean().backward()
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1) as probe:
        hidden = model[1](model[0](x))
        hidden.register_hook(stop)
        with pytest.raises(MemoryError, match="on purpose"):
            (model[2](hidden).square().mean() * 1000).backward()
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    expected = [float(reference[place].weight.grad.norm()) for place in (0, 2)]
    np.testing.assert_allclose(probe.run.profile("weight_grad_norm"), expected, rtol=1e-5)
    alone = tmp_path / "alone"
    with gs.watch(reference, out=alone, every=1) as probe_alone:
        reference.zero_grad()
        reference(x).square().mean().backward()
        probe_alone.step()
    wanted = probe_alone.run.profile("output_grad_norm")
    np.testing.assert_allclose(probe.run.profile("output_grad_norm"), wanted, rtol=1e-5)


def test_sequences_of_every_length_keep_memory_bounded(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1) as probe:
        most = 0
        for length in range(1, 400):
            optimizer.zero_grad()
            model(torch.randn(length, 8)).square().mean().backward()
            optimizer.step()
            most = max(most, len(probe._sink.tally))
    assert most <= PATIENT_PILES + 16
    assert probe.run.frame("output_grad_norm").notna().all(axis=None)


def test_a_reader_that_looks_at_every_step_makes_nobody_hold_more(tmp_path: Path) -> None:
    """Rows that were read early are made; what they were made of is not held until enough others wait."""
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    most = 0
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1, metrics="histograms") as probe:
        probe._sink.backlog._patience = 1e6  # no clock has a say
        for _ in range(2 * PATIENT_HISTOGRAMS):
            model(torch.randn(5, 6)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            probe._sink.settle()
            most = max(most, *(pile.size for pile in probe._sink.tally._piles.values()), 0)
    assert 0 < most <= PATIENT_HISTOGRAMS
    assert probe.run.histograms["step"].nunique() == 2 * PATIENT_HISTOGRAMS


def test_histograms_do_not_wait_for_a_seldom_flush(tmp_path: Path) -> None:
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    most = 0
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1, metrics="histograms") as probe:
        probe._writer._flush_seconds = 1e6
        for _ in range(1500):
            model(torch.randn(5, 6)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            most = max(most, len(probe._writer._waiting["histograms"]))
    of_a_step = 2 * 4
    assert PATIENT_HISTOGRAMS < most <= UNWRITTEN_HISTOGRAMS + (PATIENT_HISTOGRAMS + 2) // 2 * of_a_step
    found = probe.run.histograms
    assert found.groupby("step").size().eq(found.groupby("step").size()[0]).all()
    assert found["step"].nunique() == 1500


@pytest.mark.parametrize("peek", ["after the forward pass", "after the backward pass"])
@pytest.mark.parametrize("width", [8, SMALL])
def test_looking_at_the_run_in_the_middle_of_a_step_changes_no_row(peek: str, width: int, tmp_path: Path) -> None:
    runs = []
    for moment in (peek, ""):
        model = plain(width)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with gs.watch(model, optimizer, out=tmp_path / f"run {moment}", every=1, metrics="all") as probe:
            for _ in range(4):
                optimizer.zero_grad()
                loss = model(torch.randn(5, 6)).square().mean()
                if moment == "after the forward pass":
                    assert probe.run.status == "running"
                loss.backward()
                if moment == "after the backward pass":
                    assert probe.run.status == "running"
                optimizer.step()
        runs.append(probe.run)
    looked, left = runs
    for metric in left.metrics:
        pd.testing.assert_frame_equal(looked.frame(metric), left.frame(metric))
    pd.testing.assert_frame_equal(looked.histograms, left.histograms)
    pd.testing.assert_frame_equal(looked.units, left.units)
