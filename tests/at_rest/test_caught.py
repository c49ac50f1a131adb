"""The proof can fail: whatever disturbs a training is caught, placed and named."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.hooks import RemovableHandle
from trainings import OPTIMIZERS, mlp, trained, vectors, with_dropout

import gradscope as gs
from gradscope.at_rest import Report
from gradscope.metrics import unregister


def draws_from_torch(output_grad: Tensor) -> Tensor:
    return torch.rand((), dtype=output_grad.dtype)


def draws_from_numpy(output_grad: Tensor) -> float:
    return float(np.random.rand())  # noqa: NPY002 - the global state is what must not move


def draws_from_python(output_grad: Tensor) -> float:
    return random.random()


def scales_weight_gradient(weight_grad: Tensor) -> Tensor:
    return weight_grad.mul_(1.001).sum()


def scales_input_gradient(next_input_grad: Tensor) -> Tensor:
    return next_input_grad.mul_(1.001).sum()


def nudges_weights(weight: Tensor) -> Tensor:
    return weight.add_(1e-3).sum()


def turns_gradients_off(output: Tensor) -> float:
    torch.set_grad_enabled(False)
    return 0.0


def changes_the_default_dtype(weight_grad: Tensor) -> float:
    torch.set_default_dtype(torch.float64)
    return 0.0


def hooks_all_modules(weight_grad: Tensor) -> float:
    register_module_forward_hook(print_nothing)
    return 0.0


def print_nothing(*_: object) -> None:
    return None


DISTURBING: dict[Callable[..., object], tuple[str, str]] = {
    draws_from_torch: ("random states", "torch (cpu)"),
    draws_from_numpy: ("random states", "numpy"),
    draws_from_python: ("random states", "python"),
    scales_weight_gradient: ("gradients after the step", "hidden.0.linear.weight"),
    scales_input_gradient: ("gradients", "hidden.0.linear.weight"),
    nudges_weights: ("gradients", "hidden.0.linear.weight"),
    turns_gradients_off: ("errors", "the watched training"),
    changes_the_default_dtype: ("settings", "default dtype"),
    hooks_all_modules: ("hooks", "forward_hooks of all"),
}


@pytest.fixture
def harmless() -> Iterator[str]:
    @gs.metric(label="Harmless")
    def harmless(output_grad: Tensor) -> Tensor:
        return output_grad.sum()

    yield "harmless"
    unregister("harmless")


@pytest.fixture
def disturbing(request: pytest.FixtureRequest, harmless: str) -> Iterator[str]:
    gs.metric(label="Disturbing")(request.param)
    yield request.param.__name__
    unregister(request.param.__name__)


def verified(steps: int = 3, metrics: str | list[str] = "all", model: nn.Module | None = None) -> Report:
    one = trained(model or mlp(), vectors(), OPTIMIZERS["Adam"])
    return gs.verify(one.model, one.optimizer, one.loss_fn, one.batch, steps=steps, metrics=metrics)


@pytest.mark.parametrize("disturbing", DISTURBING, indirect=True, ids=lambda one: one.__name__)
def test_a_metric_that_disturbs(disturbing: str, request: pytest.FixtureRequest) -> None:
    report = verified()
    assert not report.identical
    assert report.reproducible
    assert report.suspects == (disturbing,)
    expected = DISTURBING[request.node.callspec.params["disturbing"]]
    assert expected in {(one.what, one.where) for one in report.differences}
    assert report.differences[0].step == 0
    assert str(report).startswith("Watching changes this training (3 steps of MLP, recorded at every step with ")
    assert f"This metric does it alone: '{disturbing}'." in report.verdict()


def test_a_metric_that_does_not_disturb(harmless: str) -> None:
    assert verified(metrics=[harmless]).identical


def test_hooks_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RemovableHandle, "remove", lambda self: None)
    report = verified()
    assert {one.what for one in report.differences} == {"hooks"}
    found = {one.where: one for one in report.differences}
    assert "_forward_hooks of hidden.0.linear (Linear)" in found
    after_step = found["_step_post_hooks of the optimizer"]
    assert after_step.step == 3
    assert after_step.detail.endswith(" and none")
    assert report.suspects == ()


def test_a_hook_that_changes_what_it_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    register = nn.Module.register_forward_hook

    def meddling(self: nn.Module, hook: Callable[..., None], **settings: bool) -> RemovableHandle:
        return register(self, lambda *call: (hook(*call), call[-1] * 1.001)[1], **settings)

    monkeypatch.setattr(nn.Module, "register_forward_hook", meddling)
    report = verified()
    assert (report.differences[0].what, report.differences[0].where) == ("losses", "loss")
    assert report.suspects == ()


def test_an_attribute_left_on_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    original = gs.probe.Probe.close

    def marking(self: gs.Probe, *args: str) -> None:
        original(self, *args)
        self._model.left_behind = 1  # type: ignore[assignment]

    monkeypatch.setattr(gs.probe.Probe, "close", marking)
    (difference,) = verified().differences
    assert (difference.what, difference.where) == ("attributes", "the model (MLP)")


def test_a_training_that_does_not_repeat_itself() -> None:
    scale = itertools.count(1)
    one = trained(with_dropout(), vectors())
    loss_fn = nn.CrossEntropyLoss()
    report = gs.verify(one.model, one.optimizer, lambda output, y: next(scale) * loss_fn(output, y), one.batch)
    assert not report.identical
    assert not report.reproducible
    assert report.suspects == ()
    first = report.unstable[0]
    assert (first.what, first.where, first.step) == ("losses", "loss", 0)
    assert report.verdict() == (
        "The training itself is not reproducible: two copies of Sequential that nobody watches differ, first at step 0 "
        f"in {first}. Whether watching changes anything cannot be told."
    )


def test_a_generator_of_its_own_is_no_noise() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.generator = nn.Linear(16, 10), torch.Generator().manual_seed(0)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x + torch.rand(x.shape, generator=self.generator))

    assert verified(model=Noisy()).identical
