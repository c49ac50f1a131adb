"""What verify takes, what it refuses, and what it leaves alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from trainings import MODELS, OPTIMIZERS, mlp, trained, vectors

import gradscope as gs
from gradscope.at_rest.copies import Trained
from gradscope.at_rest.verification.comparison import compare
from gradscope.at_rest.verification.observation import after_close, after_step
from gradscope.errors import GradscopeError, InvalidTypeError, InvalidValueError


def observed(one: Trained) -> dict[tuple[str, str], object]:
    found = [*after_step(one), *after_close(one)]
    return {(what, where): value.clone() if isinstance(value, Tensor) else value for what, where, value in found}


@pytest.mark.parametrize("name", ["dropout", "batch norm", "in place on the batch"])
def test_the_training_is_left_untouched(name: str) -> None:
    one = MODELS[name]()
    torch.nn.functional.cross_entropy(one.model(one.batch[0].clone()), one.batch[1]).backward()
    original = Trained(one.model, one.optimizer, torch.nn.functional.cross_entropy, one.batch)
    before = observed(original)
    assert gs.verify(one.model, one.optimizer, one.loss_fn, one.batch).identical
    after = observed(original)
    assert before.keys() == after.keys()
    assert [compare(*key, 0, before[key], after[key]) for key in before] == [None] * len(before)


def test_a_callable_makes_the_optimizer() -> None:
    made: list[torch.optim.Optimizer] = []

    def make(parameters: Any) -> torch.optim.Optimizer:
        made.append(OPTIMIZERS["Adam"](parameters))
        return made[-1]

    model = mlp()
    assert gs.verify(model, make, None, vectors()).identical
    held = {id(parameter) for one in made for group in one.param_groups for parameter in group["params"]}
    assert len(made) == 2
    assert not held & {id(parameter) for parameter in model.parameters()}


class Called(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 10)

    def forward(self, x: Tensor, *, scale: float = 1.0) -> dict[str, Tensor]:
        return {"logits": self.layer(x) * scale}


@pytest.mark.parametrize("kind", ["tensor", "tuple", "mapping"])
def test_how_the_model_is_called(kind: str) -> None:
    x, y = vectors()
    given = {"tensor": x, "tuple": (x,), "mapping": {"x": x, "scale": 2.0}}[kind]
    one = trained(Called(), (given, y), loss_fn=lambda output, y: nn.functional.cross_entropy(output["logits"], y))
    assert gs.verify(one.model, one.optimizer, one.loss_fn, one.batch).identical


def test_a_loss_with_parameters_of_its_own() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, output: Tensor, y: Tensor) -> Tensor:
            return self.scale * nn.functional.cross_entropy(output, y)

    model, loss_fn = mlp(), Scaled()
    optimizer = torch.optim.SGD([*model.parameters(), *loss_fn.parameters()], lr=0.1)
    report = gs.verify(model, optimizer, loss_fn, vectors())
    assert report.identical
    assert loss_fn.scale.item() == 1.0


def test_what_the_training_raises_is_raised() -> None:
    one = trained(mlp(), (torch.randn(8, 3), torch.randint(0, 10, (8,))))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        gs.verify(one.model, one.optimizer, None, one.batch)
    random_after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].sum()  # noqa: NPY002
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        gs.verify(one.model, one.optimizer, None, one.batch)
    assert torch.equal(random_after[0], torch.get_rng_state())
    assert random_after[1:] == (random.getstate(), np.random.get_state()[1].sum())  # noqa: NPY002


class Kept(nn.Module):
    """Keeps an output of its own, which cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 10)
        self.kept = [self.layer(torch.ones(16))]

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def refused(**changes: Any) -> dict[str, Any]:
    one = trained(mlp(), vectors())
    given = {"model": one.model, "optimizer": one.optimizer, "loss_fn": one.loss_fn, "batch": one.batch}
    return {**given, **changes}


def cross_entropy_each(output: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output, y, reduction="none")


NOT_COPIED = (
    "model cannot be copied, and verify trains copies: RuntimeError: Only Tensors created explicitly by the user "
    "(graph leaves) support the deepcopy protocol at the moment."
)
STRANGERS = (
    "optimizer holds 2 of 2 parameters that are not the model's; give the optimizer of this very model, or a callable "
    "that makes one from its parameters"
)


def of_strangers() -> torch.optim.Optimizer:
    return torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)


REFUSED: dict[str, tuple[Callable[[], dict[str, Any]], type[GradscopeError], str]] = {
    "no model": (lambda: refused(model=3), InvalidTypeError, "model is a torch.nn.Module, not int"),
    "no pair": (
        lambda: refused(batch=torch.ones(2, 2)),
        InvalidTypeError,
        "batch is a pair (x, y), not Tensor",
    ),
    "three values": (lambda: refused(batch=(1, 2, 3)), InvalidTypeError, "batch is a pair (x, y), not 3 values"),
    "no steps": (lambda: refused(steps=0), InvalidValueError, "steps is at least 1, not 0"),
    "half a step": (lambda: refused(steps=0.5), InvalidTypeError, "steps is a whole number, not 0.5"),
    "no copy": (lambda: refused(model=Kept()), InvalidValueError, NOT_COPIED),
    "another model's optimizer": (lambda: refused(optimizer=of_strangers()), InvalidValueError, STRANGERS),
    "makes another model's": (lambda: refused(optimizer=lambda _: of_strangers()), InvalidValueError, STRANGERS),
    "no optimizer": (
        lambda: refused(optimizer=None),
        InvalidTypeError,
        "optimizer is a torch.optim.Optimizer or makes one from parameters, not NoneType",
    ),
    "makes no optimizer": (
        lambda: refused(optimizer=list),
        InvalidTypeError,
        "optimizer is a torch.optim.Optimizer or makes one from parameters, not a callable that returns list",
    ),
    "many losses": (
        lambda: refused(loss_fn=cross_entropy_each),
        InvalidValueError,
        "loss_fn returns a single number, not a tensor of shape (8,)",
    ),
    "a float": (
        lambda: refused(loss_fn=lambda output, y: 1.0),
        InvalidTypeError,
        "loss_fn returns a tensor with one number, not float",
    ),
    "a loss without gradient": (
        lambda: refused(loss_fn=lambda output, y: output.detach().sum()),
        InvalidValueError,
        "the loss needs no gradient: no parameter of the model reaches it",
    ),
    "no targets": (
        lambda: refused(batch=(torch.randn(8, 16), None)),
        InvalidTypeError,
        "loss_fn is needed: the targets are NoneType, not a tensor",
    ),
    "a dictionary": (
        lambda: refused(model=Called(), optimizer=torch.optim.Adam),
        InvalidTypeError,
        "loss_fn is needed: the model returns dict, not a tensor",
    ),
    "no layers": (
        lambda: refused(model=nn.LayerNorm(16), optimizer=torch.optim.Adam),
        InvalidValueError,
        "no layers in LayerNorm; watched are: Linear, Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, "
        "ConvTranspose3d",
    ),
    "unknown metric": (lambda: refused(metrics="loss"), KeyError, "no metric 'loss'; there are: "),
    "every auto": (lambda: refused(every="auto"), InvalidTypeError, "every is a whole number, not 'auto'"),
    "every zero": (lambda: refused(every=0), InvalidValueError, "every is at least 1, not 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    given, kind, message = REFUSED[name]
    arguments = given()
    with pytest.raises(kind) as caught:
        gs.verify(**arguments)
    assert isinstance(caught.value, GradscopeError)
    assert str(caught.value).startswith(message)
