"""The shares of the gradient's paths wherever they meet, against autograd by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from kept_models import Dense, Kept, PreActivation, Shared, loss_of
from torch import Tensor, nn

import gradscope as gs
from gradscope.errors import UnknownNameError
from gradscope.runs import Run
from gradscope.runs.paths import REST, paths
from gradscope.spec import LayerSpec

Places = dict[str, dict[str, float]]


def record(model: nn.Module, loss: Callable[[], Tensor], folder: Path) -> Run:
    with gs.watch(model, out=folder, every=1) as probe:
        for _ in range(2):
            model.zero_grad()
            loss().backward()  # type: ignore[no-untyped-call]
            probe.step()
    return probe.run


def places(frame: pd.DataFrame) -> Places:
    return {
        str(place): dict(zip(found["layer"], found["share"], strict=True)) for place, found in frame.groupby("place")
    }


def share(part: Tensor, whole: Tensor) -> float:
    return float((part * whole).sum() / whole.square().sum())


def check(run: Run, expected: Places, near: float) -> None:
    for step in (0, 1):
        found = places(run.paths(step))
        assert set(found) == set(expected)
        for place, shares in expected.items():
            assert sum(found[place].values()) == pytest.approx(1.0, abs=1e-15)
            wanted = shares | {REST: 1.0 - sum(shares.values())}
            assert found[place] == pytest.approx(wanted, rel=near, abs=near)


class Attention(nn.Module):
    """Three layers take in one tensor, and a skip takes it along."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.q, self.k, self.v, self.head = (nn.Linear(6, 6) for _ in range(5))
        self.kept: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        self.kept = {"x": x, "q": self.q(x), "k": self.k(x), "v": self.v(x)}
        mixed = torch.sigmoid(self.kept["q"]) * torch.tanh(self.kept["k"]) + torch.relu(self.kept["v"])
        out: Tensor = self.head(x + mixed)
        return out


@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
def test_layers_that_take_in_one_tensor(dtype: torch.dtype, near: float, tmp_path: Path) -> None:
    model, x = Attention().to(dtype), torch.randn(8, 6, dtype=dtype)
    run = record(model, lambda: model(x).square().sum(), tmp_path / "run")
    loss = model(x).square().sum()
    kept = model.kept
    (whole,) = torch.autograd.grad(loss, kept["x"], retain_graph=True)
    shares = {}
    for name in ("q", "k", "v"):
        (grad,) = torch.autograd.grad(loss, kept[name], retain_graph=True)
        (own,) = torch.autograd.grad(kept[name], kept["x"], grad, retain_graph=True)
        shares[name] = share(own, whole)
    check(run, {"input of q": shares}, near)
    frame = run.paths()
    assert frame["at"].tolist() == [2, 2, 2, 2]
    assert frame["depth"].tolist() == [2, 3, 4, pd.NA]
    assert frame["call"].tolist() == [1, 1, 1, pd.NA]


def joins_by_hand(model: Kept, x: Tensor, above: dict[str, str]) -> Places:
    """The shares behind layers, where ``above`` names the layers through which the ways lead on."""
    loss = loss_of(model, x)
    found: Places = {}
    for name, way in model.ways.items():
        if way.join is not None:
            shared, following = way.join
            whole, after = torch.autograd.grad(loss, [shared, following], retain_graph=True)
            (own,) = torch.autograd.grad(following, shared, after, retain_graph=True)
            found[f"behind {name}"] = {above[name]: share(own, whole)}
    return found


ABOVE = {
    PreActivation: {"stem": "one.0", "two.0": "one.1", "two.1": "one.2"},
    Shared: {"stem": "body"},
    Dense: {"layers.0": "layers.1", "layers.1": "layers.2"},
}


@pytest.mark.parametrize("kind", ABOVE, ids=lambda one: one.__name__)
def test_paths_that_leave_on_the_way(kind: type[Kept], tmp_path: Path) -> None:
    model, x = kind().double(), torch.randn(kind.shape, dtype=torch.float64)
    run = record(model, lambda: loss_of(model, x), tmp_path / "run")
    check(run, joins_by_hand(model, x, ABOVE[kind]), 1e-10)


class Residual(nn.Module):
    """Skips that are taken from what the next layer takes in."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 2)
        self.layers = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.inputs: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        x, self.inputs = torch.relu(self.stem(x)), []
        for layer in self.layers:
            z = layer(x)
            self.inputs.append((x, z))
            x = x + torch.tanh(z)
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def test_residual_skips(tmp_path: Path) -> None:
    model, x = Residual().double(), torch.randn(4, 1, 6, 6, dtype=torch.float64)
    run = record(model, lambda: model(x).square().sum(), tmp_path / "run")
    loss = model(x).square().sum()
    expected: Places = {}
    for place, (entry, z) in enumerate(model.inputs):
        whole, after = torch.autograd.grad(loss, [entry, z], retain_graph=True)
        (own,) = torch.autograd.grad(z, entry, after, retain_graph=True)
        expected[f"input of layers.{place}"] = {f"layers.{place}": share(own, whole)}
    check(run, expected, 1e-10)
    ledger = run.ledger()
    np.testing.assert_array_equal(run.paths()["share"][::2], ledger["share"][1:4])


def test_along_a_chain_no_paths_meet(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(3, 4)
    frame = record(model, lambda: model(x).square().sum(), tmp_path / "run").paths()
    assert frame.empty
    assert frame.columns.tolist() == ["place", "at", "layer", "call", "depth", "share"]


def test_a_run_without_shares_says_so(tmp_path: Path) -> None:
    with gs.watch(nn.Linear(2, 2), out=tmp_path / "run", metrics=["output_grad_norm"]) as probe:
        probe.step()
    with pytest.raises(UnknownNameError) as caught:
        probe.run.paths()
    assert str(caught.value) == "no metric 'input_share'; there are: output_grad_norm"


def test_a_gradient_of_zero_has_no_shares_and_a_second_call_a_name_of_its_own() -> None:
    layers = [
        LayerSpec(id=0, layer="a", call=1, depth=1),
        LayerSpec(id=1, layer="b", call=1, depth=2, parents=(0,), entry=1),
        LayerSpec(id=2, layer="b", call=2, depth=3, parents=(0,), entry=1),
        LayerSpec(id=3, layer="b", call=3, depth=4, parents=(2,), entry=3),
    ]
    frame = paths(layers, {"input_share": pd.Series([float("nan"), 0.25, 0.5], index=[2, 3, 4])})
    assert frame["place"].unique().tolist() == ["input of b", "input of b, call 3"]
    assert frame["share"].isna().tolist() == [True, False, True, False, False]
    assert frame["share"].tolist()[3:] == [0.5, 0.5]
