"""Whatever numbers a tensor holds and whatever their type, a row is stored, and it says what was there.

Other tools crash on tensors without a finite value (pytorch#31855: "the histogram is empty"), on bfloat16 and half
precision (wandb#3332), let half precision norms overflow (transformers#16689), or stop a training in deterministic mode
(pytorch#151610, transformers#43583).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradscope as gs

NORMS = ["output_grad_norm", "weight_grad_norm", "weight_rms", "update_ratio"]
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
    ],
)
on_each_device = pytest.mark.parametrize("device", ["cpu", CUDA])
CONTENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "nan": lambda x: torch.full_like(x, math.nan),
    "infinity": lambda x: torch.full_like(x, math.inf),
    "minus infinity": lambda x: torch.full_like(x, -math.inf),
    "one nan": lambda x: x.index_fill(0, torch.tensor([1], device=x.device), math.nan),
    "one infinity": lambda x: x.index_fill(0, torch.tensor([1], device=x.device), math.inf),
    "zero": torch.zeros_like,
    "constant": torch.ones_like,
    "denormal": lambda x: torch.full_like(x, torch.finfo(x.dtype).smallest_normal / 4),
    "huge": lambda x: torch.full_like(x, 1e4),
    "empty": lambda x: x[:0],
}


def network(dtype: torch.dtype = torch.float32, phi: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), phi(), nn.Linear(6, 3)).to(dtype)


def record(model: nn.Module, batches: list[Tensor], folder: Path) -> gs.Run:
    """Record one step for each batch, with everything on; weights stay as they are."""
    with gs.watch(model, out=folder, every=1, metrics="all") as probe:
        for x in batches:
            out = model(x)
            (out * out.conj()).real.sum().backward()
            probe.step()
            model.zero_grad()
    return probe.run


@on_each_device
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("content", CONTENTS)
def test_any_content_of_any_float_type_is_recorded_and_spoils_no_other_step(
    content: str, dtype: torch.dtype, device: str, tmp_path: Path
) -> None:
    good = torch.randn(70, 8, dtype=dtype, device=device)
    bad = CONTENTS[content](good)
    run = record(network(dtype).to(device), [good, bad, good], tmp_path / "run")
    assert run.steps() == [0, 1, 2]
    # A row for both layers, whatever the batch was.
    assert run.rows("weight_rms").groupby("step").size().tolist() == [2, 2, 2]
    assert set(run.coverage["code"]) == {"recorded"}
    for metric in run.metrics:
        frame = run.frame(metric)
        if len(frame) and metric != "dead_fraction":  # it looks back over several steps
            np.testing.assert_array_equal(frame.loc[0], frame.loc[2], err_msg=metric)
    broken = "nan" in content or "infinity" in content
    assert set(run.nonfinite["step"]) <= {1}
    # Tanh brings infinity back to 1: then only what lies before it is not finite.
    assert bool(len(run.nonfinite)) == broken


@on_each_device
@pytest.mark.parametrize("content", ["nan", "infinity", "one nan", "one infinity"])
def test_what_is_not_finite_is_counted_beside_the_histogram(content: str, device: str, tmp_path: Path) -> None:
    """Histograms that drop what is not finite show a healthy layer where there is none."""
    x = CONTENTS[content](torch.randn(70, 8, device=device))
    run = record(network().to(device), [x], tmp_path / "run")
    rows = run.histograms
    entry = rows[(rows["depth"] == 1) & (rows["quantity"] == "activation_input")].iloc[0]
    counted = np.sum(entry["positive"]) + np.sum(entry["negative"]) + entry["zeros"] + entry["nonfinite"]
    assert counted == 70 * 6
    assert entry["nonfinite"] == (6 if content.startswith("one") else 70 * 6)


@on_each_device
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_norms_of_every_float_type_are_those_of_float64(dtype: torch.dtype, device: str, tmp_path: Path) -> None:
    model = network(dtype).to(device)
    layers: list[Any] = [model[0], model[2]]
    caught: list[Tensor] = []
    with gs.watch(model, out=tmp_path / "run", every=1, metrics="all") as probe:
        hidden = model[0](torch.randn(70, 8, dtype=dtype, device=device))
        hidden.register_hook(lambda grad: caught.append(grad.double().norm()))
        model[2](model[1](hidden)).square().sum().backward()
        expected = [float(layer.weight.grad.double().norm()) for layer in layers]
        probe.step()
    assert probe.run.profile("output_grad_norm")[1] == pytest.approx(float(caught[0]), rel=1e-6)
    assert probe.run.profile("weight_grad_norm").tolist() == pytest.approx(expected, rel=1e-6)


@on_each_device
@pytest.mark.parametrize(("dtype", "value"), [(torch.float16, 6e4), (torch.bfloat16, 3e38), (torch.float32, 3e38)])
def test_norms_of_a_million_entries_near_the_end_of_their_range_are_finite(
    dtype: torch.dtype, value: float, device: str, tmp_path: Path
) -> None:
    """The sum of squares of half precision overflows from 256 on, that of float32 from 1.8e19 on."""
    model = nn.Linear(1, 1000, bias=False, dtype=dtype, device=device)
    with gs.watch(model, out=tmp_path / "run", every=1, metrics="all") as probe:
        model(torch.ones(1000, 1, dtype=dtype, device=device)).backward(
            torch.full((1000, 1000), value, dtype=dtype, device=device)
        )
        probe.step()
    exact = float(torch.tensor(value, dtype=dtype)) * 1000
    assert probe.run.profile("output_grad_norm")[1] == pytest.approx(exact, rel=1e-6)
    assert probe.run.profile("output_grad_rms")[1] == pytest.approx(exact / 1000, rel=1e-6)


@pytest.fixture
def complex_modules() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Complex modules are a new feature")
        yield


@pytest.mark.usefixtures("complex_modules")
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_complex_layers_have_norms(dtype: torch.dtype, tmp_path: Path) -> None:
    model = network(dtype)
    layers: list[Any] = [model[0], model[2]]
    caught: list[Tensor] = []
    with gs.watch(model, out=tmp_path / "run", every=1, metrics=NORMS) as probe:
        hidden = model[0](torch.randn(70, 8, dtype=dtype))
        hidden.register_hook(lambda grad: caught.append(grad.abs().double().norm()))
        out = model[2](model[1](hidden))
        (out * out.conj()).real.sum().backward()
        expected = [float(layer.weight.grad.abs().double().norm()) for layer in layers]
        probe.step()
    run = probe.run
    assert "error" not in set(run.coverage["code"])
    assert run.profile("output_grad_norm")[1] == pytest.approx(float(caught[0]), rel=1e-5)
    assert run.profile("weight_grad_norm").tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("complex_modules")
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_the_spread_of_complex_samples_has_both_parts(dtype: torch.dtype, tmp_path: Path) -> None:
    """Neither part is dropped: they count as pairs of real numbers, as in all statistics."""
    model = network(dtype)
    x = torch.randn(70, 8, dtype=dtype)
    with gs.watch(model, out=tmp_path / "run", every=1, metrics="all") as probe:
        out = model(x)
        (out * out.conj()).real.sum().backward()
        probe.step()
    run = probe.run
    assert "error" not in set(run.coverage["code"])
    layer: Any = model[0]
    spread = torch.view_as_real(layer(x).detach()).double().std(0).mean()
    assert run.profile("sample_spread")[1] == pytest.approx(float(spread), rel=1e-5)


class Tokens(nn.Module):
    """An embedding with sparse gradients, a mask of truth values, integers along the way."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8, sparse=True)
        self.linear, self.head = nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = torch.tanh(self.linear(self.embedding(tokens)))
        out = self.head(hidden.masked_fill(mask[..., None], 0.0))
        return out, out.argmax(-1), out > 0


def test_sparse_gradients_integers_and_truth_values_do_no_harm(tmp_path: Path) -> None:
    model = Tokens()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1, metrics="all") as probe:
        for _ in range(3):
            optimizer.zero_grad()
            tokens = torch.randint(0, 20, (70, 5))
            out, _, _ = model(tokens, tokens > 10)
            out.square().sum().backward()
            assert model.embedding.weight.grad is not None
            assert model.embedding.weight.grad.is_sparse
            optimizer.step()
    assert probe.run.frame("output_grad_norm").shape == (3, 2)
    assert (probe.run.coverage["code"] != "error").all()


def test_a_layer_whose_weight_gradient_is_sparse(tmp_path: Path) -> None:
    """A parameter of a layer may get a sparse gradient: its norm is that of its entries."""
    model = nn.ModuleDict({"linear": nn.Linear(8, 20, bias=False)})
    linear: Any = model["linear"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1, metrics="all") as probe:
        loss: Any = nn.functional.embedding(torch.tensor([3, 5, 3]), linear.weight, sparse=True).square().sum()
        loss.backward()
        expected = float(linear.weight.grad.to_dense().norm())
        optimizer.step()
    assert probe.run.profile("weight_grad_norm")[1] == pytest.approx(expected, rel=1e-6)
    assert "error" not in set(probe.run.coverage["code"])


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@on_each_device
@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_deterministic_mode_is_respected(
    kind: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.histc, bincount with weights and others raise on CUDA in deterministic mode."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    model: nn.Module = network().to(device)
    x = torch.randn(70, 8, device=device)
    if kind == "convolution":
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 3))
        model, x = model.to(device), torch.randn(8, 1, 8, 8, device=device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1, metrics="all") as probe:
        for _ in range(2):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    run = probe.run
    assert run.frame("output_grad_norm").shape == (2, 2)
    assert (run.coverage["code"] == "recorded").all()
    assert run.events.empty
