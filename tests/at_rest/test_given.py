"""Batches that cannot be: one clear error, the same from everything that looks at a model at rest."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradscope as gs
from gradscope.errors import GradscopeError, InvalidTypeError, InvalidValueError

X, Y = torch.randn(32, 8, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 4


def model() -> nn.Module:
    return gs.lab.mlp(2, 16, "tanh", inputs=8, outputs=4, seed=0)


def verified(one: nn.Module, x: Any, y: Any, loss_fn: Any = None) -> object:
    return gs.verify(one, torch.optim.SGD(one.parameters(), lr=0.1), loss_fn, (x, y), steps=1)


def tried(one: nn.Module, x: Any, y: Any, loss_fn: Any = None) -> object:
    finding = gs.preflight(gs.lab.mlp(12, 64, "sigmoid", "xavier", seed=0), torch.rand(64, 64), torch.arange(64) % 10)
    return gs.trial(finding[0], one, x, y, loss_fn, steps=0)


TAKERS: dict[str, Callable[..., object]] = {
    "predict": gs.predict,
    "preflight": gs.preflight,
    "verify": verified,
    "trial": tried,
}
BATCHES: dict[str, tuple[Any, Any, type[GradscopeError], str]] = {
    "empty": (X[:0], Y[:0], InvalidValueError, "x holds no sample: its shape is (0, 8)"),
    "array": (X.numpy(), Y, InvalidTypeError, "x is a tensor, not ndarray: give torch.from_numpy(x)"),
    "array of labels": (X, Y.numpy(), InvalidTypeError, "y is a tensor, not ndarray: give torch.from_numpy(y)"),
    "lengths": (
        X,
        Y[:-1],
        InvalidValueError,
        "the model returns shape (32, 4), 4 classes, so y has shape (32,), not (31,)",
    ),
    "column": (
        X,
        Y[:, None],
        InvalidValueError,
        "the model returns shape (32, 4), 4 classes, so y has shape (32,), not (32, 1)",
    ),
    "too large": (
        X,
        Y + 1,
        InvalidValueError,
        "y holds labels from 1 to 4, and the model returns 4 classes: 0 to 3",
    ),
    "below zero": (X, Y - 1, InvalidValueError, "y holds labels from -1 to 2, and the model returns 4 classes: 0 to 3"),
    "short": (X, Y.short(), InvalidValueError, "y is torch.int16, and labels are torch.int64: give y.long()"),
}


@pytest.mark.parametrize("loss_fn", [None, F.cross_entropy, nn.CrossEntropyLoss()], ids=["None", "function", "module"])
@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("name", BATCHES)
def test_what_is_wrong_with_a_batch_is_said(name: str, taker: str, loss_fn: Any) -> None:
    x, y, kind, message = BATCHES[name]
    if (name, taker) == ("empty", "verify"):
        assert gs.verify(model(), torch.optim.SGD, loss_fn, (x, y)).identical
        return
    with pytest.raises(kind) as caught:
        TAKERS[taker](model(), x, y, loss_fn)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["too large", "below zero", "short"])
def test_what_is_wrong_with_labels_is_said_of_noise(name: str) -> None:
    x, y, kind, message = BATCHES[name]
    with pytest.raises(kind) as caught:
        gs.gradient_noise(model(), x, y)
    # Samples go one by one: the label of the first that cannot be is named.
    assert str(caught.value).startswith(message.split(" from ")[0])


def test_targets_of_another_shape() -> None:
    # torch itself warns before it fails.
    with pytest.warns(UserWarning, match="different to the input size"), pytest.raises(InvalidValueError) as caught:
        gs.predict(model(), X, torch.randn(31, 4))
    assert str(caught.value) == "the model returns shape (32, 4), and y has shape (31, 4)"


def test_a_loss_of_ones_own_raises_what_it_raises() -> None:
    def own(output: Tensor, y: Tensor) -> Tensor:
        raise RuntimeError("not today")

    with pytest.raises(RuntimeError, match="not today"):
        gs.predict(model(), X, Y, own)


def test_labels_that_are_left_out_are_no_mistake() -> None:
    y = Y.clone()
    y[::4] = -100
    assert gs.predict(model(), X, y)["value"].notna().all()


class Optional(nn.Module):
    """Takes something more that may be empty."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x: Tensor, more: Tensor) -> Tensor:
        out: Tensor = self.layer(x) + more.sum()
        return out


def test_one_of_several_inputs_may_be_empty() -> None:
    assert set(gs.predict(Optional(), (X, torch.zeros(0)), Y)["layer"]) == {"layer"}


@pytest.mark.parametrize("between", [(None, None), ("hidden.0.linear", None)])
def test_a_jacobian_of_what_is_no_number(between: tuple[str | None, str | None]) -> None:
    with pytest.raises(InvalidValueError, match="x holds NaN or infinity in 256 of 256 entries"):
        gs.jacobian(model(), X * math.nan, between=between)
    with pytest.raises(InvalidValueError, match=r"^x holds no sample: its shape is \(0, 8\)$"):
        gs.jacobian(model(), X[:0], between=between)
    with pytest.raises(InvalidTypeError):
        gs.jacobian(model(), np.zeros((4, 8), np.float32), between=between)


@pytest.mark.parametrize("exact", [True, False])
def test_a_jacobian_that_is_no_number(exact: bool) -> None:
    broken = model()
    with torch.no_grad():
        broken.get_parameter("head.weight")[0, 0] = math.nan
    with pytest.raises(InvalidValueError, match="the Jacobian holds NaN or infinity: look at the weights"):
        gs.jacobian(broken, X, exact=exact)


def test_a_batch_of_no_numbers_is_predicted_nothing_of() -> None:
    frame = gs.predict(model(), X * math.nan, Y)
    assert set(frame["status"]) == {"where the network begins, a value is NaN or infinite"}
