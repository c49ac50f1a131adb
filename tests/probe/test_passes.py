"""The compiled pass gives what numpy gives: every statistic, at every size, for entries of every magnitude."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chain import Training
from torch import Tensor

import gradscope as gs
from gradscope.probe import passes
from gradscope.probe.functions import Phi, from_result
from gradscope.probe.layouts import Layout
from gradscope.probe.piles import Pile
from gradscope.probe.reduce import Tape

compiled = pytest.mark.skipif(not passes.is_compiled(), reason="installed without a C compiler")
# Below a sample's size both take all entries; 40,000 is more than a small tensor, and no multiple of a block.
SHAPES = [(1,), (7,), (1, 5), (32, 64), (33, 65), (129, 310), (4, 6, 5), (5, 8, 7, 9), (64, 16, 4, 9), (0, 4)]
PLAIN = ("moments", "squares", "zeros", "small", "power", "spread", "histogram")
PHIS: dict[str, tuple[str, dict[str, float]]] = {
    "relu": ("relu", {}),
    "tanh": ("tanh", {}),
    "sigmoid": ("sigmoid", {}),
    "leaky_relu": ("leaky_relu", {}),
    "leaky_relu 0.2": ("leaky_relu", {"negative_slope": 0.2}),
    "elu": ("elu", {}),
    "elu 0.5 1.5": ("elu", {"alpha": 0.5, "scale": 1.5}),
    "selu": ("selu", {}),
}


def piles(layout: Layout, tensor: Tensor, monkeypatch: pytest.MonkeyPatch) -> tuple[Pile, Pile]:
    """One that passes over the tensor in compiled code, and one that has numpy only."""
    fast = Pile(layout, tensor)
    assert fast.passes
    with monkeypatch.context() as patch:
        patch.setattr(passes, "_passes", None)
        slow = Pile(layout, tensor)
    assert not slow.passes
    return fast, slow


def both(
    layout: Layout, tensors: list[Tensor], monkeypatch: pytest.MonkeyPatch, exact: bool = True
) -> tuple[Pile, Pile]:
    found = piles(layout, tensors[0], monkeypatch)
    for pile in found:
        tape = Tape()
        assert [pile.add(tensor, tape, exact) for tensor in tensors] == list(range(len(tensors)))
        pile.collect(tape)
    return found


def assert_same(fast: Pile, slow: Pile, rtol: float = 1e-6) -> None:
    for one, other in zip(_all(fast), _all(slow), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=1e-300)


def _all(pile: Pile) -> list[Any]:
    kept = [pile.tables, pile.shares, *(pile.bins[signal] for signal in sorted(pile.bins))]
    return [np.concatenate(one) for one in kept if one]


def values(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(shape, generator=generator, dtype=torch.float64) + 0.3
    found[torch.rand(shape, generator=generator) < 0.2] = 0.0
    found[torch.rand(shape, generator=generator) < 0.1] *= 1e-9
    return found.to(dtype)


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_statistics_of_a_tensor(shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    unit_dim = -1 if len(shape) < 4 else -3
    layout = Layout((("output_grad", PLAIN),), unit_dim)
    assert_same(*both(layout, [values(shape, dtype, seed) for seed in range(3)], monkeypatch))


@compiled
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(7,), (32, 64), (129, 310), (5, 8, 7, 9)], ids=str)
@pytest.mark.parametrize("name", PHIS)
def test_statistics_of_an_activation_function(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = [_value(name, values(shape, dtype, seed) * 2) for seed in range(2)]
    for tensor in tensors:
        # A unit that lets nothing through, and one that is nearly so.
        units = tensor.movedim(-3 if len(shape) == 4 else -1, 0)
        units[0], units[-1] = FLAT.get(name, 0.0), FLAT.get(name, 0.0)
        units[-1].reshape(-1)[-1:] = 0.5
    phi = from_result(PHIS[name][0], tensors[0], **PHIS[name][1])
    layout = Layout(_of_phi(), -3 if len(shape) == 4 else -1, phi)
    found = both(layout, tensors, monkeypatch, exact)
    for pile in found if not exact else ():
        # Asked only whether all slopes of a unit are zero, a share below 1 says no.
        pile.shares = [np.concatenate(pile.shares) == 1.0]
    assert_same(*found)


def _of_phi() -> tuple[tuple[str, tuple[str, ...]], ...]:
    return ("activation", ("moments", "zeros")), ("slope", ("small", "power", "dead"))


def _value(name: str, u: Tensor) -> Tensor:
    functions: dict[str, Any] = {
        "relu": torch.relu,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "leaky_relu": torch.nn.functional.leaky_relu,
        "leaky_relu 0.2": lambda x: torch.nn.functional.leaky_relu(x, 0.2),
        "elu": torch.nn.functional.elu,
        "elu 0.5 1.5": lambda x: torch.ops.aten.elu(x, 0.5, 1.5, 1.0),
        "selu": torch.selu,
    }
    found: Tensor = functions[name](u)
    return found


FLAT = {"tanh": 1.0, "sigmoid": 1.0, "elu": -1.0, "elu 0.5 1.5": -0.75, "selu": -1.7580993408473766}


@compiled
@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-22, 1e-19, 1.0, 1e18, 1e30, 1e37])
@pytest.mark.parametrize("count", [40, 5000])
def test_norms_of_entries_of_any_magnitude(scale: float, count: int) -> None:
    tensor = values((count,), torch.float64).clamp(-3, 3)
    narrow = (tensor * scale).float()
    pile = Pile(Layout((("output_grad", ("squares", "moments")),), -1), narrow)
    pile.add(narrow, Tape())
    pile.collect(Tape())
    wide = narrow.double()
    found = pile.tables[0][0]
    assert found[1] == pytest.approx(float(wide.square().sum()), rel=1e-6)
    assert found[3] == pytest.approx(float(wide.sum()), rel=1e-5)


@compiled
def test_deviations_far_from_zero_do_not_cancel() -> None:
    tensor = 1e4 + values((3000,), torch.float32)
    pile = Pile(Layout((("output", ("moments",)),), -1), tensor)
    pile.add(tensor, Tape())
    pile.collect(Tape())
    expected = float(((tensor.double() - tensor.double().mean()) ** 2).sum())
    assert pile.tables[0][0][3] == pytest.approx(expected, rel=1e-6)


@compiled
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite(bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = values((50, 60), torch.float32)
    tensor[7, 7] = bad
    layout = Layout((("output_grad", ("moments", "squares", "zeros", "small", "histogram")),), -1)
    assert_same(*both(layout, [tensor], monkeypatch))


@compiled
def test_subnormal_numbers_have_bins_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.tensor([0.0, -0.0, 1e-45, -3e-45, 1e-40, 2.0**-126, -(2.0**-127), 1.0, -2.0, 3e38])
    assert_same(*both(Layout((("weight", ("histogram",)),), -1), [tensor], monkeypatch))


def test_what_no_pass_reads() -> None:
    """Memory that does not lie as the tensor says, numbers that are pairs, functions known by their input."""
    dense = torch.ones(4, 6)
    assert passes.fits(dense) == passes.is_compiled()
    for other in (dense.t(), dense.to_sparse(), dense.to(torch.complex64), torch._neg_view(dense), dense[:, ::2]):
        assert not passes.fits(other)
    phi = Phi("silu", dense, True, torch.nn.functional.silu, torch.sigmoid, 1.0998)
    assert not Pile(Layout(_of_phi(), -1, phi), dense).passes
    assert not Pile(Layout((("activation", ("spread",)),), -1, from_result("relu", dense)), dense).passes


@compiled
def test_memory_that_was_given_back_is_not_read() -> None:
    tensor = torch.ones(4, 6)
    pile = Pile(Layout((("output", ("squares",)),), -1), tensor)
    tensor.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"^the tensor has no memory$"):
        pile.add(tensor, Tape())


def test_a_run_is_the_same_without_the_extension(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("with", "without"):
        with monkeypatch.context() as patch:
            if name == "without":
                patch.setattr(passes, "_passes", None)
            training = Training(4)
            with gs.watch(training.model, training.optimizer, out=tmp_path / name, every=1, metrics="all"):
                for _ in range(3):
                    training.step()
    first, second = gs.load(tmp_path / "with"), gs.load(tmp_path / "without")
    assert isinstance(first, gs.Run)
    assert isinstance(second, gs.Run)
    for metric in first.metrics:
        np.testing.assert_allclose(first.frame(metric), second.frame(metric), rtol=1e-5, err_msg=metric)


def test_without_the_extension_gradscope_records() -> None:
    program = """
import sys
sys.modules["gradscope.probe._passes"] = None
from gradscope.probe import passes
assert not passes.is_compiled()
import tempfile, torch, gradscope as gs
model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with tempfile.TemporaryDirectory() as folder, gs.watch(model, optimizer, out=folder + "/run") as probe:
    model(torch.ones(3, 4)).sum().backward()
    optimizer.step()
    print(probe.run.frame("output_grad_norm").shape)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "(1, 2)\n"
