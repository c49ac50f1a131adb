"""Preflight: what it finds before the first step, what it cannot, and that it leaves everything as it was."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from trainings import MODELS
from untouched import untouched

import gradscope as gs
from gradscope.errors import GradscopeError, InvalidTypeError, InvalidValueError

DIGITS = gs.lab.data.load("digits")
X, Y = DIGITS.x_train[:256], DIGITS.y_train[:256]

SICK: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "deep sigmoid": (lambda: gs.lab.mlp(8, 64, "sigmoid", "xavier", seed=0), "vanishing"),
    "deep relu, default": (lambda: gs.lab.mlp(12, 64, "relu", "default", seed=0), "vanishing"),
    "deep relu, xavier": (lambda: gs.lab.mlp(30, 64, "relu", "xavier", seed=0), "vanishing"),
    "sigmoid convolutions": (lambda: gs.lab.cnn(6, 16, "sigmoid", "xavier", seed=0), "vanishing"),
    "large weights": (lambda: gs.lab.mlp(12, 64, "relu", weight_var=8.0, seed=0), "exploding"),
    "infinite weights": (lambda: gs.lab.mlp(3, 64, "relu", weight_var=1e38, seed=0), "non-finite"),
}
HEALTHY: dict[str, Callable[[], nn.Module]] = {
    "relu, kaiming": lambda: gs.lab.mlp(8, 64, "relu", "kaiming", seed=0),
    "tanh, xavier": lambda: gs.lab.mlp(6, 64, "tanh", "xavier", seed=0),
    "convolutions": lambda: gs.lab.cnn(3, 16, "relu", "kaiming", seed=0),
}


@pytest.mark.parametrize("name", SICK)
def test_what_is_wrong_is_found_before_the_first_step(name: str) -> None:
    build, code = SICK[name]
    model = build()
    found = gs.preflight(model, X, Y)
    assert code in found.codes
    assert found.run == f"preflight of {type(model).__name__}"
    assert all(set(one.steps) <= {0} for one in found)


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_found_in_a_healthy_model(name: str) -> None:
    assert [one.code for one in gs.preflight(HEALTHY[name](), X, Y) if one.severity != "note"] == []


def test_every_check_is_accounted_for_and_what_needs_a_history_says_so() -> None:
    found = gs.preflight(HEALTHY["relu, kaiming"](), X, Y)
    assert {*found.codes, *found.healthy, *found.not_applicable} == set(gs.checks.CHECKS)
    assert {"update-ratio", "stalled"} <= set(found.not_applicable)
    assert all(one.reason for one in found.not_applicable.values())


@pytest.mark.parametrize("name", MODELS)
def test_everything_is_left_as_it_was(name: str) -> None:
    one = MODELS[name]()
    x, y = one.batch
    with untouched(one.model, x, y):
        gs.preflight(one.model, x, y, one.loss_fn)


def test_gradients_modes_and_random_states_are_left() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.BatchNorm1d(20), nn.Dropout(0.5), nn.Linear(20, 10))
    F.cross_entropy(model(X), Y).backward()  # type: ignore[no-untyped-call]
    model[2].eval()
    fired: list[str] = []
    model[1].register_forward_hook(lambda *_: fired.append("user's"))
    with torch.no_grad(), untouched(model, X, Y):
        first, second = gs.preflight(model, X, Y), gs.preflight(model, X, Y)
        assert not torch.is_grad_enabled()
    assert str(first) == str(second)
    assert fired == ["user's"] * 2


def test_a_model_that_evaluates_is_looked_at_as_it_will_train() -> None:
    torch.manual_seed(0)
    layers = [one for _ in range(8) for one in (nn.Linear(64, 64), nn.Sigmoid(), nn.Dropout(0.1))]
    model = nn.Sequential(nn.Flatten(), *layers, nn.Linear(64, 10))
    training = gs.preflight(model, X, Y)
    assert "vanishing" in training.codes
    assert str(gs.preflight(model.eval(), X, Y)) == str(training)
    assert not model.training
    found = gs.trial(training[0], model, X, Y, steps=2)
    assert found.before.decay.decades < -3.0


def test_a_loss_with_parameters_and_buffers_is_left() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.calls = nn.Parameter(torch.ones(())), nn.Buffer(torch.zeros(()))

        def forward(self, output: Tensor, y: Tensor) -> Tensor:
            self.calls.add_(1)
            loss: Tensor = self.scale * F.cross_entropy(output, y)
            return loss

    loss = Counting()
    gs.preflight(HEALTHY["relu, kaiming"](), X, Y, loss)
    assert loss.scale.grad is None
    assert loss.calls.item() == 0


def test_a_model_that_is_being_watched_goes_on_being_watched(tmp_path: Any) -> None:
    model = HEALTHY["relu, kaiming"]()
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        gs.preflight(model, X, Y)
        F.cross_entropy(model(X), Y).backward()  # type: ignore[no-untyped-call]
        probe.step()
    assert probe.run.steps() == [0]


def test_targets_choose_the_loss() -> None:
    model = gs.lab.mlp(4, 16, "tanh", "xavier", outputs=1, seed=0)
    found = gs.preflight(model, X, Y[:, None].float())
    expected = gs.preflight(model, X, Y[:, None].float(), F.mse_loss)
    assert str(found) == str(expected)


def test_a_compiled_model_is_looked_at_as_it_was_written() -> None:
    model = SICK["deep sigmoid"][0]()
    compiled: Any = torch.compile(model, backend="eager")
    assert gs.preflight(compiled, X, Y).codes == gs.preflight(model, X, Y).codes


class Dictionary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.layer(x.flatten(1))}


def model() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


NO_LAYERS = (
    "no layers in LayerNorm; watched are: Linear, Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, "
    "ConvTranspose3d"
)
REFUSED: dict[str, tuple[Callable[[], tuple[Any, ...]], type[GradscopeError], str]] = {
    "no model": (lambda: (3, X, Y), InvalidTypeError, "model is a torch.nn.Module, not int"),
    "no layers": (lambda: (nn.LayerNorm(8), X, Y), InvalidValueError, NO_LAYERS),
    "no loss": (
        lambda: (model(), X, Y, "mse"),
        InvalidTypeError,
        "loss_fn is a function of the model's output and y, not str",
    ),
    "no targets": (
        lambda: (model(), X, None),
        InvalidTypeError,
        "loss_fn is needed: the targets are NoneType, not a tensor",
    ),
    "a dictionary": (
        lambda: (Dictionary(), X, Y),
        InvalidTypeError,
        "loss_fn is needed: the model returns dict, not a tensor",
    ),
    "many losses": (
        lambda: (model(), X, Y, lambda output, y: F.cross_entropy(output, y, reduction="none")),
        InvalidValueError,
        "loss_fn returns a single number, not a tensor of shape (256,)",
    ),
    "a loss without gradient": (
        lambda: (model(), X, Y, lambda output, y: output.detach().sum()),
        InvalidValueError,
        "the loss needs no gradient: no parameter of the model reaches it",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    arguments, kind, message = REFUSED[name]
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        gs.preflight(*arguments())


def test_what_the_model_raises_is_raised_and_leaves_nothing() -> None:
    one = nn.Sequential(nn.Linear(3, 3))
    with untouched(one, X, Y), pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        gs.preflight(one, X, Y)
