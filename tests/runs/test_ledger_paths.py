"""The ledger of nets whose paths branch, recorded through a probe, against autograd by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradscope as gs
from gradscope.errors import UnknownNameError
from gradscope.runs import Run

Kept = dict[str, Tensor]


class Inception(nn.Module):
    """The branch with the pool is called before the longer one: it is not the trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.pooled = nn.Conv2d(4, 4, 1)
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(8, 2)
        self.kept: Kept = {}

    def forward(self, x: Tensor) -> Tensor:
        kept: Kept = {}
        self.kept = kept
        kept["stem"] = self.stem(x)
        kept["a_stem"] = torch.relu(kept["stem"])
        pooled = torch.relu(self.pooled(F.avg_pool2d(kept["a_stem"], 4)))
        kept["first"] = self.first(kept["a_stem"])
        kept["a_first"] = torch.relu(kept["first"])
        kept["second"] = self.second(kept["a_first"])
        joined = torch.cat([pooled.mean((2, 3)), torch.relu(kept["second"]).mean((2, 3))], 1)
        kept["a_second"] = joined
        kept["head"] = self.head(joined)
        return kept["head"]


class UNet(nn.Module):
    """The skip leaves the first layer's output, and joins by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 4, 3, padding=1)
        self.bottom = nn.Conv2d(4, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)
        self.join = nn.Conv2d(8, 4, 3, padding=1)
        self.head = nn.Conv2d(4, 1, 1)
        self.kept: Kept = {}

    def forward(self, x: Tensor) -> Tensor:
        kept: Kept = {}
        self.kept = kept
        kept["down"] = self.down(x)
        skip = torch.relu(kept["down"])
        kept["a_down"] = F.max_pool2d(skip, 2)
        kept["bottom"] = self.bottom(kept["a_down"])
        kept["a_bottom"] = torch.relu(kept["bottom"])
        kept["up"] = self.up(kept["a_bottom"])
        kept["a_up"] = torch.cat([skip, torch.relu(kept["up"])], 1)
        kept["join"] = self.join(kept["a_up"])
        kept["a_join"] = torch.relu(kept["join"])
        kept["head"] = self.head(kept["a_join"])
        return kept["head"]


class Residual(nn.Module):
    """The skip is taken from what the next layer takes in: its gradient has two summands there."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.kept: Kept = {}

    def forward(self, x: Tensor) -> Tensor:
        kept: Kept = {}
        self.kept = kept
        kept["stem"] = self.stem(x)
        kept["a_stem"] = torch.tanh(kept["stem"])
        kept["body"] = self.body(kept["a_stem"])
        kept["a_body"] = kept["a_stem"] + torch.tanh(kept["body"])
        kept["head"] = self.head(kept["a_body"])
        return kept["head"]


CASES: list[tuple[Callable[[], nn.Module], tuple[int, ...], list[str]]] = [
    (Inception, (4, 1, 8, 8), ["stem", "first", "second", "head"]),
    (UNet, (4, 1, 8, 8), ["down", "bottom", "up", "join", "head"]),
    (Residual, (8, 6), ["stem", "body", "head"]),
]


def watched(model: nn.Module, x: Tensor, out: Path, metrics: list[str] | str = "default") -> Run:
    with gs.watch(model, out=out, every=1, metrics=metrics) as probe:
        model(x).square().mean().backward()
        probe.step()
    run = gs.load(out)
    assert isinstance(run, Run)
    return run


def norm(tensor: Tensor) -> float:
    return float(tensor.double().norm())


def by_hand(model: nn.Module, x: Tensor, names: list[str]) -> dict[str, list[float]]:
    """The three gains along the trunk, from gradients that autograd gives for kept tensors."""
    loss = model(x).square().mean()
    kept: Kept = model.kept  # type: ignore[assignment]

    def grad(name: str) -> Tensor:
        return torch.autograd.grad(loss, kept[name], retain_graph=True)[0]

    gains: dict[str, list[float]] = {"activation_gain": [], "path_gain": [math.nan], "weight_gain": [math.nan]}
    for lower, upper in pairwise(names):
        total = grad(f"a_{lower}")
        (own,) = torch.autograd.grad(kept[upper], kept[f"a_{lower}"], grad(upper), retain_graph=True)
        gains["activation_gain"].append(norm(grad(lower)) / norm(total))
        gains["path_gain"].append(norm(total) / norm(own))
        gains["weight_gain"].append(norm(own) / norm(grad(upper)))
    gains["activation_gain"].append(math.nan)
    return gains


@pytest.mark.parametrize(("build", "shape", "names"), CASES, ids=["inception", "unet", "residual"])
def test_the_gains_are_those_of_the_trunk(
    build: Callable[[], nn.Module], shape: tuple[int, ...], names: list[str], tmp_path: Path
) -> None:
    model, x = build(), torch.randn(*shape)
    run = watched(model, x, tmp_path / "run")
    layers = {one.depth: one.layer for one in run.specs}
    assert [layers[depth] for depth in run.trunk] == names
    book = run.ledger()
    for gain, expected in by_hand(model, x, names).items():
        np.testing.assert_allclose(book[gain], expected, rtol=1e-5, err_msg=gain)
    norms = run.profile("output_grad_norm").loc[list(run.trunk)].to_numpy(np.float64)
    np.testing.assert_allclose(book["cumulative"], np.log10(norms / norms[-1]), atol=1e-9)


def test_a_run_without_the_total_falls_back_on_the_first_consumer(tmp_path: Path) -> None:
    model, x = Residual(), torch.randn(8, 6)
    old = ["output_grad_norm", "input_grad_norm", "next_input_grad_norm"]
    run = watched(model, x, tmp_path / "run", old)
    for gain, expected in by_hand(model, x, ["stem", "body", "head"]).items():
        np.testing.assert_allclose(run.ledger()[gain], expected, rtol=1e-5, err_msg=gain)


def test_one_layer_has_a_ledger_of_undefined_factors(tmp_path: Path) -> None:
    book = watched(nn.Linear(4, 2), torch.randn(8, 4), tmp_path / "run").ledger()
    assert book.index.tolist() == [1]
    assert book["cumulative"].tolist() == [0.0]
    assert book.drop(columns="cumulative").isna().all(axis=None)


def test_a_metric_that_was_not_selected_is_an_error(tmp_path: Path) -> None:
    model, x = Residual(), torch.randn(8, 6)
    with pytest.raises(UnknownNameError) as total:
        watched(model, x, tmp_path / "a", ["output_grad_norm", "input_grad_norm"]).ledger()
    end = "which this run did not record; watch with metrics='backward'"
    assert str(total.value) == f"the ledger needs input_grad_total_norm, {end}"
    with pytest.raises(UnknownNameError) as own:
        watched(model, x, tmp_path / "b", ["output_grad_norm", "input_grad_total_norm"]).ledger()
    assert str(own.value) == f"the ledger needs input_grad_norm, {end}"


class WideAndDeep(nn.Module):
    """The wide branch is one layer from input to output, and called last."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.Sequential(*(one for _ in range(5) for one in (nn.Linear(6, 6), nn.Sigmoid())), nn.Linear(6, 3))
        self.wide = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.deep(x) + self.wide(x)
        return out


def test_the_decay_runs_along_the_deep_branch(tmp_path: Path) -> None:
    run = watched(WideAndDeep(), torch.randn(8, 6), tmp_path / "run")
    assert run.trunk == (1, 2, 3, 4, 5, 6)
    assert run.decay().layers == 5  # the last layer of the trunk is the head
    assert run.decay().rate < 0.6
