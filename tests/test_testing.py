"""The assertion for a project's own tests."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradscope as gs
from gradscope import errors

SAMPLE = (torch.rand(64, 64), torch.arange(64) % 10)


def net(depth: int, activation: str, init: str) -> nn.Module:
    return gs.lab.mlp(depth=depth, activation=activation, init=init, seed=0)


@pytest.mark.parametrize(("activation", "init"), [("relu", "kaiming"), ("tanh", "xavier"), ("selu", "lecun_normal")])
def test_a_net_whose_gradients_are_of_one_size_passes(activation: str, init: str) -> None:
    gs.testing.assert_gradient_flow(net(12, activation, init), SAMPLE)


def test_a_net_whose_gradients_vanish_fails_and_shows_every_layer() -> None:
    with pytest.raises(
        AssertionError, match=r"^the output gradients of 9 layers span 5\.\d decades, more than 3:"
    ) as no:
        gs.testing.assert_gradient_flow(net(8, "sigmoid", "xavier"), SAMPLE)
    assert [line.split()[0] for line in str(no.value).splitlines()[1:]] == [str(depth) for depth in range(1, 10)]
    gs.testing.assert_gradient_flow(net(8, "sigmoid", "xavier"), SAMPLE, decades=6)


@pytest.mark.parametrize("scale", [1e-4, 1e3])
def test_the_scale_of_the_loss_does_not_matter(scale: float) -> None:
    def loss_fn(out: Tensor, y: Tensor) -> Tensor:
        return scale * nn.functional.cross_entropy(out, y)

    gs.testing.assert_gradient_flow(net(12, "relu", "kaiming"), SAMPLE, loss_fn=loss_fn)
    with pytest.raises(AssertionError, match="decades, more than 3"):
        gs.testing.assert_gradient_flow(net(8, "sigmoid", "xavier"), SAMPLE, loss_fn=loss_fn)


def test_gradients_that_are_zero_or_nan_or_absent_fail() -> None:
    dead = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    nn.init.constant_(dead[0].bias, -100.0)
    sample = (torch.randn(8, 4), torch.zeros(8, dtype=torch.long))
    with pytest.raises(AssertionError, match=r"^the output gradient of 1 of 2 layers is exactly zero:"):
        gs.testing.assert_gradient_flow(dead, sample)
    with pytest.raises(AssertionError, match=r"^the output gradient of 2 of 2 layers is NaN or infinite:"):
        gs.testing.assert_gradient_flow(nn.Sequential(*dead[::2]), sample, loss_fn=lambda out, _: out.sum() * torch.nan)

    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).detach())  # type: ignore[no-any-return]

    with pytest.raises(AssertionError, match=r"^no gradient reaches 1 of 2 layers:") as no:
        gs.testing.assert_gradient_flow(Detached(), sample)
    assert "first  no gradient" in str(no.value)


def test_a_frozen_layer_may_go_without_a_gradient() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    gs.testing.assert_gradient_flow(model, (torch.randn(8, 4), torch.zeros(8, dtype=torch.long)))


def test_the_model_and_the_random_state_stay_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))
    sample = (torch.randn(8, 4), torch.zeros(8, dtype=torch.long))
    before, state = {key: one.clone() for key, one in model.state_dict().items()}, torch.get_rng_state()
    gs.testing.assert_gradient_flow(model, sample, decades=9)
    assert all(torch.equal(one, before[key]) for key, one in model.state_dict().items())
    assert all(one.grad is None for one in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("sample", "decades", "kind", "message"),
    [
        (torch.zeros(3), 3, errors.InvalidTypeError, "sample is the pair (x, y), not Tensor"),
        (SAMPLE, "3", errors.InvalidTypeError, "decades is a number, not str"),
        (SAMPLE, -1, errors.InvalidValueError, "decades is a number from 0 on, not -1"),
    ],
)
def test_bad_arguments_are_named(sample: Any, decades: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as no:
        gs.testing.assert_gradient_flow(net(2, "relu", "kaiming"), sample, decades)
    assert str(no.value) == message


def test_a_layer_that_is_not_called_is_named() -> None:
    class Forgotten(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.used(x)
            return out

    model, sample = Forgotten(), (torch.randn(8, 4), torch.randn(8, 4))
    with pytest.raises(AssertionError, match=r"no gradient reaches 1 of 2 layers:\n +1  used .*\n +-  spare  no grad"):
        gs.testing.assert_gradient_flow(model, sample)
    model.spare.requires_grad_(False)
    gs.testing.assert_gradient_flow(model, sample)


def test_a_model_that_is_a_single_layer() -> None:
    gs.testing.assert_gradient_flow(nn.Linear(4, 4), (torch.randn(8, 4), torch.randn(8, 4)))
