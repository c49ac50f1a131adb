"""Trainings of many kinds, each as a model, an optimizer, a loss and a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from odd_models import ZOO, Odd, loss_of
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.utils.checkpoint import checkpoint

import gradscope as gs

DOUBLE = torch.float64


@dataclass
class Training:
    """What ``verify`` takes."""

    model: nn.Module
    optimizer: Optimizer
    loss_fn: Callable[[Any, Any], Tensor] | None
    batch: tuple[Any, Any]


def images(n: int = 8, side: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 1, side, side), torch.randint(0, 10, (n,))


def vectors(n: int = 8, width: int = 16, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.randn(n, width, dtype=dtype), torch.randint(0, 10, (n,))


def mlp(**settings: Any) -> nn.Module:
    return gs.lab.mlp(3, 16, settings.pop("activation", "relu"), inputs=16, outputs=10, seed=0, **settings)


def with_dropout() -> nn.Module:
    return nn.Sequential(mlp(), nn.Dropout(0.3), nn.Linear(10, 10))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(torch.tanh(self.embed(x)))))


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant, self.stem, self.head = reentrant, nn.Linear(16, 16), nn.Linear(16, 10)
        self.body = nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.2), nn.ReLU(inplace=True), nn.Linear(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.body, torch.relu(self.stem(x)), use_reentrant=self.reentrant))


class Autocast(nn.Module):
    def __init__(self, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.dtype, self.body = dtype, mlp()

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, self.dtype):
            return self.body(x).float()


def frozen_norm() -> nn.Module:
    model = gs.lab.cnn(3, 4, "relu", norm="batch", image=(1, 8, 8), seed=0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            module.requires_grad_(False)
    return model


def frozen_half() -> nn.Module:
    model = mlp()
    for parameter in list(model.parameters())[:3]:
        parameter.requires_grad_(False)
    return model


def accumulating(output: Tensor, y: Tensor) -> Tensor:
    """Two micro-batches: the first is propagated here, the second by the training loop."""
    F.cross_entropy(output[:4], y[:4]).div(2).backward(retain_graph=True)
    return F.cross_entropy(output[4:], y[4:]) / 2


def odd(kind: type[Odd]) -> Training:
    model = kind()
    return Training(
        model, SGD(model.parameters(), lr=0.01), lambda output, _: loss_of(output), (torch.randn(kind.shape), 0)
    )


def trained(
    model: nn.Module,
    batch: tuple[Any, Any],
    optimizer: Callable[..., Optimizer] = SGD,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
) -> Training:
    return Training(model, optimizer(one for one in model.parameters() if one.requires_grad), loss_fn, batch)


MODELS: dict[str, Callable[[], Training]] = {
    "dropout": lambda: trained(with_dropout(), vectors()),
    "convolutions": lambda: trained(gs.lab.cnn(3, 4, "relu", image=(1, 8, 8), seed=0), images()),
    "batch norm": lambda: trained(gs.lab.cnn(3, 4, "relu", norm="batch", image=(1, 8, 8), seed=0), images()),
    "frozen batch norm": lambda: trained(frozen_norm(), images()),
    "tied weights": lambda: trained(Tied(), vectors()),
    "in place": lambda: trained(nn.Sequential(nn.Linear(16, 9), nn.ReLU(inplace=True), nn.Linear(9, 10)), vectors()),
    "in place on the batch": lambda: trained(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(16, 10)), vectors()),
    "reentrant checkpoint": lambda: trained(Checkpointed(True), vectors()),
    "checkpoint": lambda: trained(Checkpointed(False), vectors()),
    "autocast bfloat16": lambda: trained(Autocast(), vectors()),
    "bfloat16": lambda: trained(mlp().bfloat16(), vectors(dtype=torch.bfloat16)),
    "float64": lambda: trained(mlp().double(), vectors(dtype=DOUBLE)),
    "complex": lambda: trained(
        nn.Linear(16, 4, dtype=torch.complex64),
        (torch.randn(8, 16, dtype=torch.complex64), 0),
        loss_fn=lambda output, _: output.abs().square().mean(),
    ),
    "frozen parts": lambda: trained(frozen_half(), vectors()),
    "accumulation": lambda: trained(mlp(), vectors(), loss_fn=accumulating),
    "regression": lambda: trained(mlp(), (torch.randn(8, 16), torch.randn(8, 10))),
    "infinite": lambda: trained(mlp(), (torch.full((8, 16), float("inf")), torch.randint(0, 10, (8,)))),
    **{kind.__name__: partial(odd, kind) for kind in ZOO},
}

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "SGD": partial(SGD, lr=0.05),
    "SGD, momentum": partial(SGD, lr=0.05, momentum=0.9, nesterov=True),
    "SGD, fused": partial(SGD, lr=0.05, fused=True),
    "Adam": Adam,
    "Adam, foreach": partial(Adam, foreach=True),
    "Adam, fused": partial(Adam, fused=True),
    "AdamW, amsgrad": partial(AdamW, amsgrad=True),
    "AdamW, fused": partial(AdamW, fused=True),
    "RMSprop, centered": partial(torch.optim.RMSprop, centered=True),
    "LBFGS": partial(torch.optim.LBFGS, max_iter=4),
    "LBFGS, line search": partial(torch.optim.LBFGS, max_iter=4, line_search_fn="strong_wolfe"),
}
