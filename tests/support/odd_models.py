"""Odd models, each with an out-of-place twin whose tensors autograd can be asked about directly."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Tapped:
    """One layer call of the twin."""

    name: str
    module: nn.Module
    entry: Tensor
    output: Tensor
    u: Tensor | None = None
    phi: Tensor | None = None
    steepest: float = 1.0


@dataclass
class Taps:
    calls: list[Tapped] = field(default_factory=list)


class Odd(nn.Module):
    """A model that calls its layers through ``run`` and its activation functions through ``act``."""

    shape: tuple[int, ...] = (8, 6)

    def __init__(self) -> None:
        super().__init__()
        self.taps: Taps | None = None
        self.inplace = True

    def run(self, name: str, x: Tensor) -> Tensor:
        module = self.get_submodule(name)
        z: Tensor = module(x)
        if self.taps is not None:
            self.taps.calls.append(Tapped(name, module, x, z))
        return z

    def act(self, function: Callable[..., Tensor], u: Tensor, *layers: int, inplace: bool = False) -> Tensor:
        """Apply an activation function; ``layers`` are the calls it belongs to, counted from the last (-1)."""
        a = function(u, inplace=True) if inplace and self.inplace else function(u)
        if self.taps is not None:
            for place in layers or (-1,):
                tapped = self.taps.calls[place]
                tapped.u, tapped.phi, tapped.steepest = u, a, steepest(function)
        return a


def steepest(function: Callable[..., Tensor]) -> float:
    """Greatest |phi'| on a fine grid; -0.0 and the like aside, exact where phi' has its maximum at a kink."""
    u = torch.linspace(-20, 20, 400_001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(function(u).sum(), u)
    return float(slope.abs().max())


class Plain(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 7), nn.Linear(7, 5, bias=False), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(torch.tanh, self.run("a", x))
        x = self.act(torch.sigmoid, self.run("b", x))
        return self.run("c", x)


class FunctionalGelu(Plain):
    def forward(self, x: Tensor) -> Tensor:
        x = self.act(F.gelu, self.run("a", x))
        x = self.act(lambda u: F.gelu(u, approximate="tanh"), self.run("b", x))
        return self.run("c", x)


class EveryFunction(Odd):
    FUNCTIONS = (F.relu, F.leaky_relu, F.elu, F.selu, F.silu, F.softsign, F.hardtanh, F.softplus, F.mish)

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(6, 6) for _ in self.FUNCTIONS)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        for place, function in enumerate(self.FUNCTIONS):
            x = self.act(function, 3 * self.run(f"hidden.{place}", x))
        return self.run("head", x)


class InPlaceFunctions(EveryFunction):
    FUNCTIONS = (F.relu, F.leaky_relu, F.elu, F.selu, F.silu, F.mish)

    def forward(self, x: Tensor) -> Tensor:
        for place, function in enumerate(self.FUNCTIONS):
            x = self.act(function, self.run(f"hidden.{place}", x), inplace=True)
        return self.run("head", x)


class ViewInPlace(Odd):
    """A Linear on 3-D input returns a view; changing it in place loses a tensor hook."""

    shape = (4, 5, 6)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 7), nn.Linear(7, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(F.relu, self.run("a", x), inplace=True)
        x = self.act(F.relu, self.run("b", x), inplace=True)
        return self.run("c", x)


class NotContiguous(Odd):
    shape = (4, 6, 5)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(torch.tanh, self.run("a", x.transpose(1, 2)))
        return self.run("b", x)


class NormInPlace(Odd):
    shape = (4, 2, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.second, self.group = nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4)
        self.head = nn.Linear(4 * 2 * 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(F.relu, self.norm(self.run("conv", x)), inplace=True)
        x = self.act(F.relu, self.group(self.run("second", x)), inplace=True)
        return self.run("head", F.max_pool2d(x, 2).flatten(1))


class NormLinear(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.run("b", self.act(F.silu, self.norm(self.run("a", x))))


class CalledTwice(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.shared, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(torch.tanh, self.run("a", x))
        x = self.act(torch.tanh, self.run("shared", x))
        x = self.act(torch.tanh, self.run("shared", x))
        return self.run("head", x)


class Residual(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 6), nn.Linear(6, 2)
        self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(torch.tanh, self.run("stem", x))
        for place in range(3):
            x = x + self.act(torch.tanh, self.run(f"blocks.{place}", x))
        return self.run("head", x)


class InPlaceSkip(Residual):
    def forward(self, x: Tensor) -> Tensor:
        x = self.act(F.relu, self.run("stem", x), inplace=True)
        for place in range(3):
            out = self.act(F.silu, self.run(f"blocks.{place}", x))
            x = out.add_(x) if self.inplace else out + x
        return self.run("head", x)


class Branches(Odd):
    """Two layers share one input; one of them is a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.main, self.side, self.head = (nn.Linear(6, n) for n in (6, 4, 4, 2))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(torch.tanh, self.run("a", x))
        main = self.run("main", x)
        both = self.act(torch.relu, main + self.run("side", x), -1, -2)
        return self.run("head", both)


class Convolutions(Odd):
    shape = (3, 2, 8)

    def __init__(self) -> None:
        super().__init__()
        self.one, self.up = nn.Conv1d(2, 3, 3, stride=2), nn.ConvTranspose1d(3, 2, 4)
        self.flat = nn.Conv3d(1, 2, 2)
        self.head = nn.Linear(2 * 1 * 1 * 5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(torch.tanh, self.run("one", x))
        x = self.act(torch.tanh, self.run("up", x))
        x = self.act(torch.tanh, self.run("flat", x[:, None, :, None, :].expand(-1, -1, -1, 2, -1)))
        return self.run("head", x.flatten(1))


class OddOutputs(Odd):
    """Keyword input, dictionary and tuple outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> dict[str, Any]:
        hidden = self.act(torch.sigmoid, self.run("a", x))
        return {"logits": (self.act(torch.sigmoid, self.run("b", hidden)),), "none": None}


class Dropped(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.run("b", self.dropout(self.act(F.relu, self.run("a", x), inplace=True)))


ZOO: tuple[type[Odd], ...] = (
    Plain,
    FunctionalGelu,
    EveryFunction,
    InPlaceFunctions,
    ViewInPlace,
    NotContiguous,
    NormInPlace,
    NormLinear,
    CalledTwice,
    Residual,
    InPlaceSkip,
    Branches,
    Convolutions,
    OddOutputs,
    Dropped,
)


def loss_of(output: Any) -> Tensor:
    """A loss that no unit escapes."""
    if isinstance(output, dict):
        output = output["logits"][0]
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype, device=output.device).reshape(output.shape)
    return (output * weights).sum() + output.square().mean()


def twin_of(model: Odd) -> Odd:
    """An out-of-place copy that keeps what its layers saw."""
    twin = copy.deepcopy(model)
    twin.taps, twin.inplace = Taps(), False
    return twin


@dataclass(frozen=True)
class Truth:
    """What autograd says of one layer call."""

    name: str
    call: int
    output: Tensor
    output_grad: Tensor
    own: Tensor | None
    total: Tensor | None
    u: Tensor | None
    phi: Tensor | None
    slope: Tensor | None
    steepest: float


def truth(twin: Odd, x: Tensor) -> list[Truth]:
    """Ask autograd by hand about every layer call of a twin, in order of execution."""
    assert twin.taps is not None
    loss = loss_of(twin(x))
    found, seen = [], {}
    for tapped in twin.taps.calls:
        seen[tapped.name] = seen.get(tapped.name, 0) + 1
        (grad,) = torch.autograd.grad(loss, tapped.output, retain_graph=True)
        found.append(_truth_of(tapped, seen[tapped.name], grad, loss))
    loss.backward()
    return found


def _truth_of(tapped: Tapped, call: int, grad: Tensor, loss: Tensor) -> Truth:
    total = own = slope = None
    if tapped.entry.requires_grad:
        (total,) = torch.autograd.grad(loss, tapped.entry, retain_graph=True)
        entry = tapped.entry.detach().clone().requires_grad_(True)
        (own,) = torch.autograd.grad(tapped.module(entry), entry, grad)
    if tapped.u is not None and tapped.phi is not None:
        (slope,) = torch.autograd.grad(tapped.phi.sum(), tapped.u, retain_graph=True)
    return Truth(tapped.name, call, tapped.output, grad, own, total, tapped.u, tapped.phi, slope, tapped.steepest)
