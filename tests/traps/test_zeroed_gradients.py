"""What ``zero_grad`` throws away is no part of the step: its gradients never reach an optimizer.

Steps left out where the loss is not finite, attacks by ``backward``, the critic of a generator's step: users compared
the recorded signal with the one that trained, and found more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

import gradscope as gs

DOUBLE = torch.float64
Training = Callable[[nn.Sequential, Optimizer], Iterator[list[Tensor]]]


def net(*widths: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for place in range(len(widths) - 1):
        parts += [nn.Linear(widths[place], widths[place + 1]), nn.Tanh()]
    return nn.Sequential(*parts[:-1]).to(DOUBLE)


def signal(model: nn.Sequential, losses: Iterable[Callable[[], Tensor]]) -> list[float]:
    """|dL/dz| of both layers by autograd, the losses combined as micro-batches are."""
    squares = [0.0, 0.0]
    kept: list[Tensor] = []
    handles = [layer.register_forward_hook(lambda _, __, out: kept.append(out)) for layer in (model[0], model[2])]
    for loss in losses:
        kept.clear()
        for place, grad in enumerate(torch.autograd.grad(loss(), kept)):
            squares[place] += float(grad.square().sum())
    for handle in handles:
        handle.remove()
    return [math.sqrt(one) for one in squares]


def batches(seed: int, count: int) -> list[Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(5, 6, dtype=DOUBLE) for _ in range(count)]


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).square().mean()


def a_step_left_out(model: nn.Sequential, optimizer: Optimizer) -> Iterator[list[Tensor]]:
    for step in range(6):
        good, bad = batches(step, 2)
        if step % 2:
            optimizer.zero_grad()
            loss_of(model, bad * math.nan).backward()
        optimizer.zero_grad()
        loss_of(model, good).backward()
        yield [good]


def an_attack_by_backward(model: nn.Sequential, optimizer: Optimizer) -> Iterator[list[Tensor]]:
    for step in range(4):
        (x,) = batches(step, 1)
        attacked = x.clone().requires_grad_(True)
        loss_of(model, attacked).backward()
        assert attacked.grad is not None
        optimizer.zero_grad()
        found = (x + 0.1 * attacked.grad.sign()).detach()
        loss_of(model, found).backward()
        yield [found]


def micro_batches_after_a_dropped_one(model: nn.Sequential, optimizer: Optimizer) -> Iterator[list[Tensor]]:
    for step in range(4):
        first, second, third = batches(step, 3)
        loss_of(model, first).backward()
        optimizer.zero_grad()
        loss_of(model, second).backward()
        loss_of(model, third).backward()
        yield [second, third]


def nothing_is_dropped(model: nn.Sequential, optimizer: Optimizer) -> Iterator[list[Tensor]]:
    for step in range(4):
        optimizer.zero_grad()
        found = batches(step, 3)
        for one in found:
            loss_of(model, one).backward()
            nn.utils.clip_grad_value_(model.parameters(), 10.0)
        yield found


def with_a_graph_of_gradients(model: nn.Sequential, optimizer: Optimizer) -> Iterator[list[Tensor]]:
    """``create_graph`` makes every sum anew: nothing is dropped."""
    for step in range(3):
        optimizer.zero_grad()
        found = batches(step, 2)
        for one in found:
            torch.set_warn_always(True)  # else it is said to the first test of a process only
            with pytest.warns(UserWarning, match=r"Using backward\(\) with create_graph=True"):
                loss_of(model, one).backward(create_graph=True)
            torch.set_warn_always(False)
        yield found


def summed_elsewhere(model: nn.Sequential, optimizer: Optimizer) -> Iterator[list[Tensor]]:
    """Gradients are moved to sums of one's own after every micro-batch, and back before the step."""
    for step in range(3):
        sums = [torch.zeros_like(one) for one in model.parameters()]
        found = batches(step, 3)
        for one in found:
            loss_of(model, one).backward()
            for total, parameter in zip(sums, model.parameters(), strict=True):
                assert parameter.grad is not None
                total += parameter.grad
                parameter.grad = None
        for total, parameter in zip(sums, model.parameters(), strict=True):
            parameter.grad = total
        yield found


TRAININGS: dict[str, Training] = {
    one.__name__: one
    for one in (
        a_step_left_out,
        an_attack_by_backward,
        micro_batches_after_a_dropped_one,
        nothing_is_dropped,
        summed_elsewhere,
    )
}


@pytest.mark.parametrize("optimizer", [SGD, Adam])
@pytest.mark.parametrize("name", TRAININGS)
def test_the_signal_is_that_of_what_the_optimizer_applies(
    name: str, optimizer: Callable[..., Optimizer], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = net(6, 5, 2)
    one = optimizer(model.parameters(), lr=0.01)
    expected = []
    with gs.watch(model, one, out=tmp_path / "run", every=1, metrics="all") as probe:
        for counted in TRAININGS[name](model, one):
            model.eval()  # what the test computes is no part of the training
            expected.append(signal(model, [lambda x=x: loss_of(model, x) for x in counted]))  # type: ignore[misc]
            model.train()
            one.step()
            one.zero_grad()
        text = str(probe.coverage())
    np.testing.assert_allclose(probe.run.frame("output_grad_norm"), expected, rtol=1e-12)
    assert "missed" not in text


def test_sums_with_a_graph_are_sums(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = net(6, 5, 2)
    optimizer = SGD(model.parameters(), lr=0.01)
    expected = []
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1) as probe:
        for counted in with_a_graph_of_gradients(model, optimizer):
            model.eval()
            expected.append(signal(model, [lambda x=x: loss_of(model, x) for x in counted]))  # type: ignore[misc]
            model.train()
            optimizer.step()
    np.testing.assert_allclose(probe.run.frame("output_grad_norm"), expected, rtol=1e-12)


def test_a_critic_alone(tmp_path: Path) -> None:
    """The generator's loss goes through the critic after its step; the critic's next step has zeroed that."""
    torch.manual_seed(0)
    critic, generator = net(6, 5, 1), net(4, 6, 6)
    of_critic, of_generator = Adam(critic.parameters()), Adam(generator.parameters())
    expected = []
    with gs.watch(critic, of_critic, out=tmp_path / "run", every=1, metrics="all") as probe:
        for _ in range(4):
            real, noise = torch.randn(5, 6, dtype=DOUBLE), torch.randn(5, 4, dtype=DOUBLE)
            fake = generator(noise).detach()
            critic.eval()
            expected.append(
                signal(
                    critic, [lambda x=real: F.softplus(-critic(x)).mean(), lambda x=fake: F.softplus(critic(x)).mean()]
                )  # type: ignore[misc]
            )
            critic.train()
            of_critic.zero_grad()
            (F.softplus(-critic(real)).mean() + F.softplus(critic(fake)).mean()).backward()
            of_critic.step()
            of_generator.zero_grad()
            F.softplus(-critic(generator(noise))).mean().backward()
            of_generator.step()
    np.testing.assert_allclose(probe.run.frame("output_grad_norm"), expected, rtol=1e-12)


def test_parts_of_a_sum_that_somebody_kept_are_no_number(tmp_path: Path) -> None:
    """Gradients of two losses through one forward pass, taken apart and put together again: the sum is not known."""
    torch.manual_seed(0)
    model = net(6, 5, 2)
    optimizer = SGD(model.parameters(), lr=0.01)
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1) as probe:
        out = model(torch.randn(5, 6, dtype=DOUBLE))
        kept = []
        for loss in (out[:, 0].square().mean(), out[:, 1].abs().mean()):
            optimizer.zero_grad()
            loss.backward(retain_graph=True)
            kept.append([one.grad.clone() for one in model.parameters() if one.grad is not None])
        for parameter, *parts in zip(model.parameters(), *kept, strict=True):
            assert parameter.grad is not None
            parameter.grad.copy_(sum(parts))
        optimizer.step()
    assert probe.run.frame("output_grad_norm").empty
    assert set(probe.run.coverage["code"]) == {"repeated"}
