"""Modules called several times and weights held by several modules: a row for each call, parameters counted once.

Records keyed by module are overwritten by the next call (torch-scan#24, pytorch-summary#37), tied weights counted twice
(DeepSpeed#1286).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradscope as gs

DOUBLE = torch.float64


class Looped(nn.Module):
    """One layer, one activation module and one normalization, each called several times."""

    def __init__(self, calls: int, activation: nn.Module) -> None:
        super().__init__()
        self.calls, self.activation, self.norm = calls, activation, nn.LayerNorm(6)
        self.stem, self.shared, self.head = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.stem(x))
        for _ in range(self.calls):
            x = self.activation(self.norm(self.shared(x)))
        return self.head(x)


class Unrolled(nn.Module):
    """The same network with copies in the place of calls, so that every call has a module of its own."""

    def __init__(self, looped: Looped) -> None:
        super().__init__()
        self.looped = [looped]  # no submodule: its layers would be found under its name
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(looped.calls))
        for layer in self.layers:
            layer.load_state_dict(looped.shared.state_dict())
        self.stem, self.head = looped.stem, looped.head

    def forward(self, x: Tensor) -> Tensor:
        (looped,) = self.looped
        x = looped.activation(self.stem(x))
        for layer in self.layers:
            x = looped.activation(looped.norm(layer(x)))
        return self.head(x)


ACTIVATIONS = {"relu": nn.ReLU(), "in place": nn.ReLU(inplace=True), "tanh": nn.Tanh(), "gelu": nn.GELU()}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("calls", [1, 2, 5])
def test_every_call_has_its_own_row(calls: int, activation: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    looped = Looped(calls, ACTIVATIONS[activation]).to(DOUBLE)
    unrolled = Unrolled(looped).to(DOUBLE)
    x = torch.randn(7, 6, dtype=DOUBLE)
    runs = []
    for place, model in enumerate((looped, unrolled)):
        with gs.watch(model, out=tmp_path / str(place), every=1) as probe:
            model(x).square().sum().backward()
            probe.step()
        runs.append(probe.run)
    assert runs[0].layers["layer"].tolist() == ["stem", *["shared"] * calls, "head"]
    assert runs[0].layers["call"].tolist() == [1, *range(1, calls + 1), 1]
    for metric in ("output_grad_norm", "output_rms", "next_input_grad_norm", "activation_mean", "slope_rms"):
        np.testing.assert_allclose(runs[0].frame(metric), runs[1].frame(metric), rtol=1e-9, err_msg=metric)
    found = runs[0].frame("weight_grad_norm").reindex(columns=runs[0].layers["depth"]).to_numpy()[0]
    assert found[1] == pytest.approx(float(looped.shared.weight.grad.norm()), rel=1e-9)
    assert np.isnan(found[2 : 1 + calls]).all()


def test_the_number_of_calls_may_change(tmp_path: Path) -> None:
    model = Looped(1, nn.Tanh())
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        for calls in (2, 4, 1):
            model.calls = calls
            model(torch.randn(5, 6)).square().sum().backward()
            probe.step()
    run = probe.run
    counts = run.rows("output_rms").query("layer == 'shared'").groupby("step").size()
    assert counts.tolist() == [2, 4, 1]
    assert run.layers["layer"].tolist() == ["stem", *["shared"] * 4, "head"]


class Tied(nn.Module):
    """Two or three layers hold one weight; the embedding is no layer."""

    def __init__(self, embedding: bool, transposed: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 6) if embedding else nn.Linear(6, 6, bias=False)
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.head.weight = self.embed.weight
        self.transposed = transposed

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.body(torch.tanh(self.embed(x))))
        return self.head(x) if not self.transposed else nn.functional.linear(x, self.head.weight.T)


@pytest.mark.parametrize("embedding", [False, True])
def test_tied_weights(embedding: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Tied(embedding, False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randint(0, 6, (5,)) if embedding else torch.randn(5, 6)
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1, metrics="all") as probe:
        for _ in range(2):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            applied = float(model.head.weight.grad.norm())
            optimizer.step()
    run = probe.run
    rows = run.rows("weight_grad_norm").query("step == 1").set_index("layer")["value"]
    for layer in ("head",) if embedding else ("embed", "head"):
        assert rows[layer] == pytest.approx(applied, rel=1e-5)
    signals = run.rows("output_grad_norm").query("step == 1").set_index("layer")["value"]
    assert signals.notna().all()
    assert len(signals) == (2 if embedding else 3)


def test_a_layer_under_two_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 6)
    model = nn.ModuleDict({"first": layer, "second": layer, "head": nn.Linear(6, 2)})

    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        x = torch.tanh(model["first"](torch.randn(5, 6)))
        model["head"](torch.tanh(model["second"](x))).square().sum().backward()
        probe.step()
    layers = probe.run.layers
    assert layers[["layer", "call"]].to_numpy().tolist() == [["first", 1], ["first", 2], ["head", 1]]
    grads = probe.run.frame("weight_grad_norm").reindex(columns=[1, 2, 3]).to_numpy()[0]
    assert grads[0] == pytest.approx(float(layer.weight.grad.norm()), rel=1e-5)
    assert np.isnan(grads).tolist() == [False, True, False]
