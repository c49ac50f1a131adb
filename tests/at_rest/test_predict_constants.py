"""Constants that are added between a layer and its activation function: their size is not known, and that is said."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from forecasts import batch
from torch import Tensor, nn

import gradscope as gs

LEFT = "a constant is added, whose size leaves no trace"
FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh(z + 1)": lambda z: torch.tanh(z + 1.0),
    "tanh(1 - z)": lambda z: torch.tanh(1.0 - z),
    "relu(z + 1)": lambda z: F.relu(z + 1),
    "gelu(z + 1)": lambda z: F.gelu(z + 1),
    "tanh(z + zeros)": lambda z: torch.tanh(z + torch.zeros(16)),
    "tanh(z + noise)": lambda z: torch.tanh(z + 0.1 * torch.randn_like(z)),
    "sigmoid(tanh(2 (z + 1)))": lambda z: torch.sigmoid(torch.tanh(2.0 * (z + 1.0))),
    "tanh(z) + 1": lambda z: torch.tanh(z) + 1.0,
}


class Between(nn.Module):
    """Two hidden layers and a head, with some function behind each hidden one."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 10)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c(self.function(self.b(self.function(self.a(x)))))
        return out


class Recurrent(nn.Module):
    """A recurrent network by hand, whose state starts from zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.h, self.o = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(len(x), 16)
        for _ in range(2):
            state = torch.tanh(self.i(x) + self.h(state))
        out: Tensor = self.o(state)
        return out


@pytest.mark.parametrize("form", FORMS)
def test_a_constant_is_said_to_be_unknown(form: str) -> None:
    torch.manual_seed(0)
    model, (x, y) = Between(FORMS[form]), batch(16, 8)
    frame = gs.predict(model, x, y)
    above = frame.query("depth > 1 and metric == 'output_rms'")
    assert above["value"].isna().all()
    assert set(above["status"]) == {LEFT}
    below = frame.query("depth == 1 and metric == 'output_grad_norm'")
    assert below["status"].item().endswith(LEFT)
    # What is measured of the first and the last layer stays.
    assert frame.query("depth == 1 and metric == 'output_rms'")["value"].notna().all()
    assert frame.query("depth == 3 and metric == 'output_grad_norm'")["value"].notna().all()
    found = gs.jacobian(model, x)
    assert found.m1 > 0.0
    assert found.theory.status.endswith(LEFT)


def test_a_recurrent_network_by_hand() -> None:
    torch.manual_seed(0)
    model, (x, y) = Recurrent(), batch(16, 8)
    found = gs.predict(model, x, y).query("metric == 'output_rms' and layer == 'o'")
    assert (found["value"].isna().item(), found["status"].item()) == (True, LEFT)
    assert gs.jacobian(model, x).theory.status.endswith(LEFT)


def test_what_is_subtracted_from_something_else_is_a_sum() -> None:
    """1 - z as a difference of two paths, by torch.rsub(z, x) = x - z, is the skip x + (-z)."""
    torch.manual_seed(0)
    x, y = batch(32, 64)

    class Difference(nn.Module):
        def __init__(self, turned: bool) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
            self.turned = turned

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            z = self.b(torch.tanh(x))
            out: Tensor = self.c(torch.rsub(z, x, alpha=0.5) if self.turned else x - 0.5 * z)
            return out

    plain, turned = Difference(False), Difference(True)
    turned.load_state_dict(plain.state_dict())
    expected, found = gs.predict(plain, x, y), gs.predict(turned, x, y)
    assert found["value"].notna().all()
    assert found["value"].tolist() == pytest.approx(expected["value"].tolist())


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_a_factor_that_is_no_number(factor: float) -> None:
    frame = gs.predict(Between(lambda z: torch.tanh(z * factor)), batch(16, 8)[0])
    assert set(frame.query("depth > 1 and metric == 'output_rms'")["status"]) == {"a factor is NaN or infinite"}
