"""In-place functions behind a layer: no error, and the numbers are those of the same training out of place.

A full backward hook forbids changing its module's output (pytorch#61519, vision#4164, captum#979), and what is kept by
reference is overwritten before it is read (pytorch#95617).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradscope as gs

FUNCTIONS: dict[str, Callable[[Tensor, bool], Tensor]] = {
    "relu": lambda u, inplace: F.relu(u, inplace),
    "leaky_relu": lambda u, inplace: F.leaky_relu(u, 0.1, inplace),
    "elu": lambda u, inplace: F.elu(u, 1.0, inplace),
    "selu": lambda u, inplace: F.selu(u, inplace),
    "celu": lambda u, inplace: F.celu(u, 0.5, inplace),
    "silu": lambda u, inplace: F.silu(u, inplace),
    "mish": lambda u, inplace: F.mish(u, inplace),
    "relu6": lambda u, inplace: F.relu6(u, inplace),
    "hardtanh": lambda u, inplace: F.hardtanh(u, -0.5, 0.5, inplace),
    "hardswish": lambda u, inplace: F.hardswish(u, inplace),
    "tanh": lambda u, inplace: u.tanh_() if inplace else u.tanh(),
    "sigmoid": lambda u, inplace: u.sigmoid_() if inplace else u.sigmoid(),
    "added to": lambda u, inplace: u.add_(1.0) if inplace else u + 1.0,
    "scaled": lambda u, inplace: u.mul_(0.5) if inplace else u * 0.5,
    "clamped": lambda u, inplace: u.clamp_(-0.3, 0.3) if inplace else u.clamp(-0.3, 0.3),
}
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Linear": (lambda: nn.Linear(6, 6), (5, 6)),
    "Linear, three dimensions": (lambda: nn.Linear(6, 6), (3, 4, 6)),
    "Linear without bias": (lambda: nn.Linear(6, 6, bias=False), (3, 4, 6)),
    "Conv1d": (lambda: nn.Conv1d(6, 6, 3, padding=1), (3, 6, 5)),
    "Conv2d": (lambda: nn.Conv2d(6, 6, 3, padding=1), (2, 6, 4, 4)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(6, 6, 1), (2, 6, 4, 4)),
    "Conv1d without samples": (lambda: nn.Conv1d(6, 6, 3, padding=1), (6, 5)),
}
# In place, torch computes the slope of elu and its kin from the output: the gradients of the training itself differ.
FROM_THE_OUTPUT = ("elu", "selu", "celu")
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 2e-2}


class Chain(nn.Module):
    def __init__(self, layer: str, function: str, inplace: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(LAYERS[layer][0]() for _ in range(3))
        self.function, self.inplace = FUNCTIONS[function], inplace

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.function(layer(x), self.inplace)
        return x


def recorded(layer: str, function: str, inplace: bool, dtype: torch.dtype, folder: Path) -> gs.Run:
    torch.manual_seed(0)
    model = Chain(layer, function, inplace).to(dtype)
    x = torch.randn(LAYERS[layer][1], dtype=dtype)
    with gs.watch(model, out=folder, every=1, metrics="all") as probe:
        for _ in range(2):
            model.zero_grad()
            (model(x) * torch.linspace(-1, 1, x.shape[-1], dtype=dtype)).sum().backward()
            probe.step()
    return probe.run


DOUBLE = [(function, layer, torch.float64) for function in FUNCTIONS for layer in LAYERS]
NARROW = [(function, "Linear, three dimensions", dtype) for function in FUNCTIONS for dtype in ROUNDING]


@pytest.mark.parametrize(("function", "layer", "dtype"), dict.fromkeys([*DOUBLE, *NARROW]))
def test_in_place_is_the_same_as_out_of_place(function: str, layer: str, dtype: torch.dtype, tmp_path: Path) -> None:
    inside, outside = (recorded(layer, function, flag, dtype, tmp_path / str(flag)) for flag in (True, False))
    assert not (inside.coverage["code"] == "error").any()
    for metric in ("output_grad_norm", "output_rms", "weight_grad_norm", "next_input_grad_norm", "input_grad_norm"):
        np.testing.assert_allclose(inside.frame(metric), outside.frame(metric), rtol=ROUNDING[dtype], err_msg=metric)
    assert inside.frame("output_grad_norm").shape == (2, 3)
    # What is known of phi is the same too; in place, it may be known of fewer functions.
    for metric in ("slope_rms", "saturation", "activation_mean", "zero_fraction"):
        found, expected = inside.frame(metric), outside.frame(metric)
        if not found.empty:
            np.testing.assert_allclose(
                found, expected[found.columns], rtol=ROUNDING[dtype], atol=ROUNDING[dtype], err_msg=metric
            )


@pytest.mark.parametrize("function", FUNCTIONS)
def test_in_place_on_the_input_of_a_layer(function: str, tmp_path: Path) -> None:
    """The forward hook sees the input before anyone changes it, and never keeps it."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor, inplace: bool) -> Tensor:
            return self.b(FUNCTIONS[function](self.a(FUNCTIONS[function](x, inplace)), inplace))

    runs = []
    for inplace in (True, False):
        torch.manual_seed(0)
        model = Model()
        x = torch.randn(4, 6)
        with gs.watch(model, out=tmp_path / str(inplace), every=1, metrics="all") as probe:
            model(x, inplace).sum().backward()
            probe.step()
        runs.append(probe.run)
    for metric in ("output_grad_norm", "output_rms", "output_mean"):
        # Of single precision, what these differ by is a rounding of every entry.
        rounding = 1e-7 if function in FROM_THE_OUTPUT and metric == "output_grad_norm" else 0.0
        np.testing.assert_allclose(runs[0].frame(metric), runs[1].frame(metric), rtol=rounding, err_msg=metric)


def test_a_threshold_above_zero_is_no_relu(tmp_path: Path) -> None:
    """An in-place function on a view is recognised by its values: without any near its kink, nothing is claimed."""
    torch.manual_seed(0)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv1d(6, 6, 3, padding=1) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = F.threshold(layer(x), 0.1, 0.0, True)
            return x

    model = Model().double()
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        model(torch.randn(6, 5, dtype=torch.float64)).sum().backward()
        probe.step()
    assert probe.run.layers["activation"].tolist() == ["?", "?", "?"]
