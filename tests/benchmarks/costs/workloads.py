"""The five trainings that are timed, on synthetic data fixed in advance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 10
BATCHES = 4


@dataclass(frozen=True)
class Workload:
    """A model, the shape of its input and what its activation modules are."""

    name: str
    text: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    phi: type[nn.Module]


@dataclass
class Training:
    """One copy of a workload: model, optimizer, batches; every copy starts from the same weights."""

    workload: Workload
    device: str = "cpu"
    model: nn.Module = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.model = self.workload.build().to(self.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)
        shape, device = self.workload.shape, self.device
        batches = [
            (torch.randn(shape, device=device), torch.randint(CLASSES, shape[:1], device=device))
            for _ in range(BATCHES)
        ]
        self._batches = cycle(batches)

    def step(self) -> Tensor:
        x, y = next(self._batches)
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss

    def skip(self) -> None:
        """Count a step without training: what watches the optimizer moves on to its next step."""
        self.optimizer.zero_grad()
        self.optimizer.step()


def workloads(quick: bool = False) -> dict[str, Workload]:
    """The workloads by name; ``quick`` makes them tiny, for a test of this program itself."""
    if quick:
        made = [
            Workload("W1", "MLP 3 x 8, tanh, batch 4", lambda: mlp(3, 8, nn.Tanh, 6), (4, 6), nn.Tanh),
            Workload("W2", "MLP 4 x 8, ReLU, batch 4", lambda: mlp(4, 8, nn.ReLU, 6), (4, 6), nn.ReLU),
            Workload("W3", "CNN 2 x 4 channels, BN, ReLU, batch 2", lambda: cnn(2, 4), (2, 3, 8, 8), nn.ReLU),
            Workload("W4", "ResNet-18 of 2 channels, batch 2", lambda: ResNet18(2), (2, 3, 8, 8), nn.ReLU),
            Workload("W5", "MLP 2 x 4, tanh, batch 4", lambda: mlp(2, 4, nn.Tanh, 6), (4, 6), nn.Tanh),
        ]
    else:
        made = [
            Workload("W1", "MLP 20 x 256, tanh, batch 128", lambda: mlp(20, 256, nn.Tanh), (128, 784), nn.Tanh),
            Workload("W2", "MLP 50 x 512, ReLU, batch 256", lambda: mlp(50, 512, nn.ReLU), (256, 784), nn.ReLU),
            Workload("W3", "CNN 10 x 32 channels, BN, ReLU, batch 64", lambda: cnn(10, 32), (64, 3, 32, 32), nn.ReLU),
            Workload("W4", "ResNet-18, 32 x 32 pictures, batch 64", lambda: ResNet18(64), (64, 3, 32, 32), nn.ReLU),
            Workload("W5", "MLP 8 x 64, tanh, batch 32", lambda: mlp(8, 64, nn.Tanh), (32, 784), nn.Tanh),
        ]
    return {one.name: one for one in made}


def mlp(depth: int, width: int, phi: type[nn.Module], inputs: int = 784) -> nn.Sequential:
    sizes = [inputs, *[width] * depth]
    gain = 2**0.5 if phi is nn.ReLU else 1.0
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        linear = nn.Linear(before, after)
        nn.init.normal_(linear.weight, std=gain / before**0.5)  # neither vanishing nor exploding: no denormal numbers
        layers += [linear, phi()]
    return nn.Sequential(*layers, nn.Linear(width, CLASSES))


def cnn(depth: int, channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(depth):
        conv = nn.Conv2d(channels if index else 3, channels, 3, padding=1)
        layers += [conv, nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


class BasicBlock(nn.Module):
    """Two convolutions and a skip."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm1, self.relu1 = nn.BatchNorm2d(after), nn.ReLU()
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2, self.relu2 = nn.BatchNorm2d(after), nn.ReLU()
        self.skip = nn.Sequential()
        if stride != 1 or before != after:
            self.skip = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        out: Tensor = self.relu2(z + self.skip(x))
        return out


class ResNet18(nn.Sequential):
    """ResNet-18 with a 3 x 3 stem and no first pooling, as is usual for pictures of 32 x 32."""

    def __init__(self, width: int) -> None:
        stem = [nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        blocks, before = [], width
        for stage in range(4):
            for index in range(2):
                after = width * 2**stage
                blocks.append(BasicBlock(before, after, 2 if stage and not index else 1))
                before = after
        super().__init__(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, CLASSES))
