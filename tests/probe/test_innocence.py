"""Watching changes nothing, keeps nothing alive, and leaves nothing behind."""

from __future__ import annotations

import gc
import random
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradscope as gs
from gradscope.probe import hooks


def model_of(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "mlp":
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Linear(32, 10))
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 10),
        nn.GELU(),
    )


def train(model: nn.Module, folder: Path | None, steps: int = 20) -> list[Any]:
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global state is what must not move
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    x, y = torch.randn(16, 64), torch.randint(0, 10, (16,))
    probe = gs.watch(model, optimizer, out=folder, every=2, metrics="all") if folder else None
    seen: list[Any] = []
    for _ in range(steps):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        seen.append(loss.detach().clone())
        seen.extend(parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None)
        optimizer.step()
        optimizer.zero_grad()
        if probe:
            probe.log(loss=loss)
    if probe:
        probe.close()
    seen.extend(value.clone() for value in model.state_dict().values())
    seen.append(torch.get_rng_state())
    seen.append(torch.tensor([random.random(), float(np.random.rand())]))  # noqa: NPY002
    return seen


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_training_is_bit_identical(kind: str, tmp_path: Path) -> None:
    bare, watched = train(model_of(kind), None), train(model_of(kind), tmp_path / "run")
    assert len(bare) == len(watched)
    assert all(torch.equal(a, b) for a, b in zip(bare, watched, strict=True))
    assert len(gs.load(tmp_path / "run").frame("output_grad_norm")) == 10


def test_no_forward_hook_exists_on_an_unrecorded_step(tmp_path: Path) -> None:
    model = model_of("mlp")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    calls: list[int] = []
    original = hooks.Hook.__call__

    with gs.watch(model, optimizer, out=tmp_path / "run", every=5), pytest.MonkeyPatch.context() as patch:
        patch.setattr(hooks.Hook, "__call__", lambda self, *a, **k: (calls.append(1), original(self, *a, **k))[1])
        for _ in range(5):
            calls.append(0)
            model(torch.randn(4, 64)).sum().backward()
            optimizer.step()
    counts = "".join(map(str, calls)).split("0")[1:]
    # An unrecorded step: one call after the optimizer step (and four flags, in backward, that are plain functions).
    assert [len(one) for one in counts[1:]] == [1, 1, 1, 1]
    assert len(counts[0]) > 1


def test_no_activation_outlives_its_forward_pass(tmp_path: Path) -> None:
    kept: list[weakref.ref[Tensor]] = []

    class Noting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            kept.append(weakref.ref(x))
            return x * 1.0

    model = nn.Sequential(nn.Linear(64, 32), Noting(), nn.ReLU(), Noting(), nn.Linear(32, 10))
    with gs.watch(model, out=tmp_path / "run", every=1, metrics="all"):
        out = model(torch.randn(4, 64))
        del out
        gc.collect()
        assert [one() for one in kept] == [None, None]


class Token:
    """Something a graph can own and a weak reference can follow."""


class Marked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, token: Token) -> Tensor:
        ctx.token = token
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def test_training_without_backward_keeps_no_graph(tmp_path: Path) -> None:
    model = model_of("mlp")
    x = torch.randn(4, 64, requires_grad=True)
    with gs.watch(model, out=tmp_path / "run", every=1):
        token = Token()
        alive = weakref.ref(token)
        model(Marked.apply(x, token))
        del token
        gc.collect()
        assert alive() is None


def test_a_backward_pass_after_the_step_is_closed_is_ignored(tmp_path: Path) -> None:
    model = model_of("mlp")
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        late = model(torch.randn(4, 64)).sum()
        probe.step()
        late.backward()
        probe.step()
    assert probe.run.frame("output_grad_norm").empty
