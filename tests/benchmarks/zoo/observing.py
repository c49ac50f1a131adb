"""What the rules of other tools look at, read from the training with plain hooks; nothing of gradscope is in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

LAYERS = (nn.Linear, nn.Conv2d)
LIMITS: dict[type[nn.Module], tuple[float, float]] = {nn.Tanh: (-9.4999, 9.4999), nn.Sigmoid: (-23.0, 16.99999)}
"""Inputs beyond which SageMaker calls an activation function saturated (AWS, SaturatedActivation)."""
RTOL, ATOL, EPSILON = 1e-5, 1e-8, 1e-9
"""SageMaker: UnchangedTensor and WeightUpdateRatio."""


@dataclass(frozen=True)
class Seen:
    """One observed step; layers in order of execution, the lowest first.

    Attributes:
        step: Its number.
        grad_mean: Mean of |dL/dW| per layer, None where no gradient came back.
        grad_norm: |dL/dW| per layer, 0 where no gradient came back.
        grad_range: 95th minus 5th percentile of dL/dW per layer.
        zeros: Share of entries of all gradients, of weights and biases, that are exactly zero.
        finite: Whether all weights, gradients, inputs of activation functions and the loss are finite.
        empty: Whether some weight or its gradient is zero in every entry.
        input_var: Variance of what each ReLU receives.
        inactive: Share of units, per ReLU, that are positive on less than 1 % of the batch.
        saturated: Share of units, per tanh and sigmoid, within the limits on less than 1 % of the batch.
        update: |Delta W| / (|W| + 1e-9) per layer, of mean magnitudes.
        unchanged: Whether some weight has stayed within tolerance since the last observed step.
        train_accuracy: On the training part.
        test_accuracy: On the held-out part.
        test_loss: On the held-out part, scaled as in training.
    """

    step: int
    grad_mean: tuple[float | None, ...]
    grad_norm: tuple[float, ...]
    grad_range: tuple[float, ...]
    zeros: float
    finite: bool
    empty: bool
    input_var: tuple[float, ...]
    inactive: tuple[float, ...]
    saturated: tuple[float, ...]
    update: tuple[float, ...]
    unchanged: bool
    train_accuracy: float
    test_accuracy: float
    test_loss: float


class Observer:
    """Hooks on the activation functions while a step is observed; the weights before and after it."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._layers = [one for one in model.modules() if isinstance(one, LAYERS)]
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._inputs: list[tuple[type[nn.Module], Tensor]] = []
        self._before: list[Tensor] = []
        self._last: list[Tensor] = []

    def start(self) -> None:
        """Before the forward pass."""
        self._inputs, self._before = [], [one.weight.detach().clone() for one in self._layers]
        for module in self._model.modules():
            if type(module) in (nn.ReLU, *LIMITS):
                self._handles.append(module.register_forward_hook(self._take))

    def stop(self) -> None:
        """After the optimizer step, before anything else goes through the model."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def seen(self, step: int, loss: float, train: float, test: float, test_loss: float) -> Seen:
        """Return what was seen of the step."""
        weights = [one.weight.detach().double() for one in self._layers]
        before = [one.double() for one in self._before]
        grads = [None if one.weight.grad is None else one.weight.grad.double() for one in self._layers]
        every = [one.grad for one in self._model.parameters() if one.grad is not None]
        received = [u for _, u in self._inputs]
        seen = Seen(
            step=step,
            grad_mean=tuple(None if one is None else one.abs().mean().item() for one in grads),
            grad_norm=tuple(0.0 if one is None else one.norm().item() for one in grads),
            grad_range=tuple(_range(one) for one in grads if one is not None),
            zeros=sum(int((one == 0).sum()) for one in every) / max(1, sum(one.numel() for one in every)),
            finite=_finite([*weights, *every, *received]) and abs(loss) < float("inf"),
            empty=any(not one.any() for one in [*weights, *(one for one in grads if one is not None)]),
            input_var=tuple(u.var().item() for kind, u in self._inputs if kind is nn.ReLU),
            inactive=tuple(_share(u > 0) for kind, u in self._inputs if kind is nn.ReLU),
            saturated=tuple(
                _share((u > LIMITS[kind][0]) & (u < LIMITS[kind][1])) for kind, u in self._inputs if kind in LIMITS
            ),
            update=tuple(
                ((new - old).abs().mean() / (old.abs().mean() + EPSILON)).item()
                for new, old in zip(weights, before, strict=True)
            ),
            unchanged=any(
                torch.allclose(new, old, RTOL, ATOL) for new, old in zip(before, self._last, strict=bool(self._last))
            ),
            train_accuracy=train,
            test_accuracy=test,
            test_loss=test_loss,
        )
        self._last = before
        return seen

    def _take(self, module: nn.Module, given: tuple[Tensor, ...], _: Tensor) -> None:
        self._inputs.append((type(module), given[0].detach().double()))


def _range(grad: Tensor) -> float:
    low, high = torch.quantile(grad.flatten()[: 2**20], torch.tensor([0.05, 0.95], dtype=grad.dtype)).tolist()
    return float(high - low)


def _share(active: Tensor) -> float:
    """Share of units that are active on less than 1 % of samples and positions."""
    units = active.double().transpose(0, 1).flatten(1).mean(1)
    return (units < 0.01).double().mean().item()


def _finite(tensors: Iterable[Tensor]) -> bool:
    return all(bool(torch.isfinite(one).all()) for one in tensors)
