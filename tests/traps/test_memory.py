"""Nothing is kept: tensors and graphs do not grow in number with the steps, whatever the training does.

Kept activations and gradients hold whole graphs (opacus#176, pytorch#82528, grad-cam#88, wandb#2644).
"""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from oracle import loss_of
from shapes import SHAPES, shape
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

import gradscope as gs


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


def train(model: nn.Module, optimizer: Optimizer, x: Tensor) -> None:
    model(x).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def without_backward(model: nn.Module, optimizer: Optimizer, x: Tensor) -> None:
    model(x)
    optimizer.step()


def without_gradient(model: nn.Module, optimizer: Optimizer, x: Tensor) -> None:
    with torch.no_grad():
        model(x)
    optimizer.step()


def without_a_step(model: nn.Module, optimizer: Optimizer, x: Tensor) -> None:
    model(x).square().sum().backward()


def with_a_graph_of_gradients(model: nn.Module, optimizer: Optimizer, x: Tensor) -> None:
    grads = torch.autograd.grad(model(x).square().sum(), list(model.parameters()), create_graph=True)
    sum(grad.square().sum() for grad in grads).backward()
    optimizer.step()
    optimizer.zero_grad()


def failing(model: nn.Module, optimizer: Optimizer, x: Tensor) -> None:
    loss = model(x).square().sum()
    try:
        (loss * torch.ones(2)).backward()
    except RuntimeError:
        optimizer.zero_grad()


WAYS: dict[str, Callable[[nn.Module, Optimizer, Tensor], None]] = {
    one.__name__: one
    for one in (train, without_backward, without_gradient, without_a_step, with_a_graph_of_gradients, failing)
}


def tensors_alive() -> int:
    gc.collect()
    return sum(issubclass(type(one), Tensor) for one in gc.get_objects())


@pytest.mark.parametrize("every", [1, 7])
@pytest.mark.parametrize("way", WAYS)
def test_the_number_of_tensors_stays(way: str, every: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = net()
    optimizer = SGD(model.parameters(), lr=1e-4)
    x = torch.randn(5, 6)
    counts = []
    told = {
        "without_a_step": r"^no step was closed .*: the optimizer given to watch never stepped$",
        "without_gradient": r"^no activation and no error signal was recorded in .*only without gradient \(no_grad\)$",
    }
    says = pytest.warns(UserWarning, match=told[way]) if way in told else contextlib.nullcontext()
    with says, gs.watch(model, optimizer, out=tmp_path / "run", every=every, metrics="all") as probe:
        for _ in range(2):
            for _ in range(42):
                WAYS[way](model, optimizer, x)
            _ = probe.run  # copies of small tensors wait for each other, for half a second at most
            counts.append(tensors_alive())
    assert counts[1] <= counts[0]


@pytest.mark.parametrize("name", SHAPES)
def test_a_step_leaves_no_graph_behind(name: str, tmp_path: Path) -> None:
    """Without the collector: what is not freed at once piles up on a device."""
    model = shape(name)
    inputs = model.inputs()
    kept: list[weakref.ref[Tensor]] = []

    def note(_module: nn.Module, _args: object, output: object) -> None:
        if isinstance(output, Tensor) and output.grad_fn is not None:
            kept.append(weakref.ref(output))

    with gs.watch(model, out=tmp_path / "run", every=1, metrics="all") as probe:
        loss_of(model(**inputs)).backward()
        probe.step()
        handles = [module.register_forward_hook(note) for module in model.modules() if not list(module.children())]
        gc.disable()
        try:
            loss_of(model(**inputs)).backward()
            probe.step()
            alive = [one() is not None for one in kept]
        finally:
            gc.enable()
        for handle in handles:
            handle.remove()
    assert alive
    assert not any(alive)


def test_a_closed_probe_frees_its_model(tmp_path: Path) -> None:
    model = net()
    alive = weakref.ref(model)
    probe = gs.watch(model, out=tmp_path / "run", every=1, metrics="all")
    model(torch.randn(5, 6)).sum().backward()
    probe.step()
    probe.close()
    del model, probe
    gc.collect()
    assert alive() is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("way", WAYS)
def test_the_memory_of_a_gpu_stays(way: str, tmp_path: Path) -> None:
    model = net().cuda()
    optimizer = SGD(model.parameters(), lr=1e-4)
    x = torch.randn(5, 6).cuda()
    if way == "failing":
        pytest.skip("the failing loss is made on the CPU")
    used = []
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1, metrics="all"):
        for _ in range(2):
            for _ in range(50):
                WAYS[way](model, optimizer, x)
            gc.collect()
            used.append(torch.cuda.memory_allocated())
    assert used[1] <= used[0]
