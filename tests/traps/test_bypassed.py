"""Layers that run without their hooks are named, with the reason; nothing is invented for them.

``module.forward(x)``, the bare weight in a function, and fused paths call no hook (pytorch#117925, fastai#2850).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradscope as gs

WAYS: dict[str, Callable[[nn.Linear, Tensor], Tensor]] = {
    "forward": lambda layer, x: layer.forward(x),
    "function": lambda layer, x: F.linear(x, layer.weight, layer.bias),
    "matrix": lambda layer, x: x @ layer.weight.T + layer.bias,
    "class": lambda layer, x: nn.Linear.forward(layer, x),
    "einsum": lambda layer, x: torch.einsum("bi,oi->bo", x, layer.weight),
}


class Bypassing(nn.Module):
    def __init__(self, way: Callable[[nn.Linear, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.head, self.unused = (nn.Linear(6, 6) for _ in range(4))
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.way(self.b, torch.tanh(self.a(x)))))


@pytest.mark.parametrize("way", WAYS)
def test_a_layer_without_hooks_is_named(way: str, tmp_path: Path) -> None:
    model = Bypassing(WAYS[way])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1, metrics="all") as probe:
        for _ in range(2):
            model(torch.randn(4, 6)).square().sum().backward()
            optimizer.step()
    run = probe.run
    codes = run.coverage.set_index("layer")["code"]
    assert codes["b"] == codes["unused"] == "never_called"
    assert codes["a"] != "never_called"
    text = run.coverage.set_index("layer")["text"]["b"]
    assert text.startswith("not called in a forward pass (its hook never fired: ")
    assert run.layers["layer"].tolist() == ["a", "head"]
    assert probe.coverage().set_index("layer")["fired"]["b"] == 0


def test_a_model_called_by_its_forward(tmp_path: Path) -> None:
    """The root's own hooks do not fire; its layers' do."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    frames = []
    for place, call in enumerate((model.__call__, model.forward)):
        torch.manual_seed(0)
        model.zero_grad()
        with gs.watch(model, out=tmp_path / str(place), every=1) as probe:
            for _ in range(2):
                call(torch.ones(4, 6)).square().sum().backward()
            probe.step()
        frames.append(probe.run)
    assert frames[0].layers["call"].tolist() == frames[1].layers["call"].tolist() == [1, 1]
    for metric in ("output_grad_norm", "weight_grad_norm"):
        assert frames[0].frame(metric).equals(frames[1].frame(metric))


@pytest.mark.parametrize("training", [True, False])
def test_a_fused_encoder(training: bool, tmp_path: Path) -> None:
    """In evaluation, the encoder layer runs as one fused kernel."""
    model = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True).train(training)
    probe = gs.watch(model, out=tmp_path / "run", every=1)
    if training:
        model(torch.randn(3, 5, 8)).square().sum().backward()
    else:
        with torch.no_grad():
            model(torch.randn(3, 5, 8))
    probe.step()
    with nullcontext() if training else pytest.warns(UserWarning, match="no activation and no error signal"):
        probe.close()
    codes = probe.coverage().set_index("layer")["code"].drop("self_attn")
    assert codes["self_attn.out_proj"] == "never_called"
    assert training or set(codes) <= {"never_called", "uncounted"}
    assert len(probe.run.layers) == (2 if training else 0)
