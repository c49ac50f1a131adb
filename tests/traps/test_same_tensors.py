"""What the training sees is what it would see alone: the same tensors, not only the same numbers.

Full backward hooks hand out views in the place of inputs and outputs (pytorch#61446), and warn where a first
layer's input needs no gradient (pytorch#56380).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trainings import MODELS, OPTIMIZERS

import gradscope as gs


class Noting(nn.Module):
    """Hands its input on, and keeps what passes through."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.seen: list[tuple[Any, Any]] = []

    def forward(self, x: Any) -> Any:
        out = self.inner(x)
        self.seen.append((x, out))
        return out


INNER: dict[str, nn.Module] = {
    "identity": nn.Identity(),
    "in place": nn.ReLU(inplace=True),
    "linear": nn.Linear(6, 6),
    "view": nn.Flatten(0, 0),
    "dropout": nn.Dropout(0.0),
}


@pytest.mark.parametrize("name", INNER)
def test_outputs_are_handed_on_as_they_are(name: str, tmp_path: Path) -> None:
    first, last = Noting(nn.Linear(6, 6)), Noting(INNER[name])
    model = nn.Sequential(first, last, nn.Linear(6, 3))
    with gs.watch(model, out=tmp_path / "run", every=1, metrics="all") as probe:
        out = model(torch.randn(4, 6))
        out.sum().backward()
        probe.step()
    (_, handed), (received, returned) = first.seen[0], last.seen[0]
    assert received is handed
    assert type(received.grad_fn).__name__ in ("AddmmBackward0", "ReluBackward0")
    if name in ("identity", "in place"):
        assert returned is received


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("kind", ["Linear", "Conv2d", "Linear in a block"])
def test_the_first_layer_has_its_row_at_every_step(kind: str, requires_grad: bool, tmp_path: Path) -> None:
    """Warnings are errors here."""
    models = {
        "Linear": nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)),
        "Conv2d": nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 2)),
        "Linear in a block": nn.Sequential(nn.Sequential(nn.Linear(6, 5)), nn.Linear(5, 2)),
    }
    model = models[kind]
    shape = (4, 2, 3, 3) if kind == "Conv2d" else (4, 6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1, metrics="all") as probe:
        for _ in range(5):
            model(torch.randn(shape, requires_grad=requires_grad)).square().sum().backward()
            optimizer.step()
    run = probe.run
    for metric in ("output_grad_norm", "weight_grad_norm", "output_rms"):
        assert run.frame(metric)[1].notna().tolist() == [True] * 5
    assert (1 in run.frame("input_grad_norm").columns) == requires_grad


@pytest.mark.parametrize("optimizer", ["SGD, momentum", "Adam"])
@pytest.mark.parametrize("name", ["batch norm", "dropout"])
def test_fifty_steps_are_bit_identical(name: str, optimizer: str) -> None:
    one = MODELS[name]()
    report = gs.verify(one.model, OPTIMIZERS[optimizer], one.loss_fn, one.batch, steps=50, every=5)
    assert report.identical, str(report)


def test_the_output_of_the_model_is_not_replaced(tmp_path: Path) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.kept = nn.Linear(6, 3), {}

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            self.kept = {"logits": self.layer(x)}
            return self.kept

    model = Model()
    with gs.watch(model, out=tmp_path / "run", every=1):
        out = model(torch.randn(4, 6))
        assert out is model.kept
        assert (
            out["logits"]._backward_hooks is None or not out["logits"].requires_grad or out["logits"].is_leaf is False
        )
