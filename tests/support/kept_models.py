"""Models that keep what passes through them, so that every factor between two layers can be had from autograd."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[Tensor, Tensor]


@dataclass
class Way:
    """What lies between a layer's output and the next layer's input.

    Attributes:
        z: The output.
        a: The next layer's input; None behind the head.
        norm: What the normalization receives and returns.
        phi: What the activation function receives and returns.
        join: A tensor that another path uses, and what comes next on the way.
    """

    z: Tensor
    a: Tensor | None = None
    norm: Pair | None = None
    phi: Pair | None = None
    join: Pair | None = None


class Kept(nn.Module):
    """A model that keeps the ways of its last forward pass, by the name of the layer."""

    shape: tuple[int, ...]

    def __init__(self) -> None:
        super().__init__()
        self.ways: dict[str, Way] = {}


class Plain(Kept):
    """Linear layers, with a normalization here, dropout there, and one layer without an activation function."""

    shape = (32, 6)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d, self.e = (nn.Linear(6, 6) for _ in range(5))
        self.norm, self.layer_norm, self.drop = nn.BatchNorm1d(6), nn.LayerNorm(6), nn.Dropout(0.3)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.a(x)
        after = torch.tanh(z)
        self.ways = {"a": Way(z, after, phi=(z, after))}
        z = self.b(after)
        u = self.norm(z)
        after = F.gelu(u)
        self.ways["b"] = Way(z, after, norm=(z, u), phi=(u, after))
        z = self.c(after)
        phi = torch.relu(z)
        after = self.drop(phi)
        self.ways["c"] = Way(z, after, phi=(z, phi))
        z = self.d(after)
        self.ways["d"] = Way(z, z)
        z = self.e(z)
        u = self.layer_norm(z)
        after = F.softsign(u)
        self.ways["e"] = Way(z, after, norm=(z, u), phi=(u, after))
        z = self.head(after)
        self.ways["head"] = Way(z)
        return z


class Convolutional(Kept):
    """Convolutions with batch norm and pooling, on either side of the activation function."""

    shape = (4, 1, 12, 12)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.norm, self.groups, self.head = nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.a(x)
        u = self.norm(z)
        phi = torch.relu(u)
        after = F.max_pool2d(phi, 2)
        self.ways = {"a": Way(z, after, norm=(z, u), phi=(u, phi))}
        z = self.b(after)
        pooled = F.avg_pool2d(z, 2)
        after = torch.sigmoid(pooled)
        self.ways["b"] = Way(z, after, phi=(pooled, after))
        z = self.c(after)
        u = self.groups(z)
        after = u.flatten(1)
        self.ways["c"] = Way(z, after, norm=(z, u))
        z = self.head(after)
        self.ways["head"] = Way(z)
        return z


class PostActivation(Kept):
    """Residual blocks whose activation function comes after the sum (He et al. 2016a)."""

    shape = (4, 4, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 2)
        self.one, self.two = (nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.stem(x)
        after = torch.relu(z)
        self.ways = {"stem": Way(z, after, phi=(z, after))}
        for place in range(3):
            z = self.one[place](after)
            u = self.norms[2 * place](z)
            between = torch.relu(u)
            self.ways[f"one.{place}"] = Way(z, between, norm=(z, u), phi=(u, between))
            z = self.two[place](between)
            normal = self.norms[2 * place + 1](z)
            u = normal + after
            after = torch.relu(u)
            self.ways[f"two.{place}"] = Way(z, after, norm=(z, normal), phi=(u, after))
        last = after.mean((2, 3))
        self.ways["two.2"].a = last
        z = self.head(last)
        self.ways["head"] = Way(z)
        return z


class PreActivation(Kept):
    """Residual blocks whose sum is normalized first (He et al. 2016b), on sequences, as in a transformer."""

    shape = (4, 5, 6)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 6), nn.Linear(6, 2)
        self.one, self.two = (nn.ModuleList(nn.Linear(6, 6) for _ in range(3)) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(6) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        stream = self.stem(x)
        self.ways = {"stem": Way(stream)}
        below = "stem"
        for place in range(3):
            u = self.norms[place](stream)
            way = self.ways[below]
            way.a, way.norm, way.join = u, (stream, u), (stream, u)
            z = self.one[place](u)
            phi = F.silu(z)
            self.ways[f"one.{place}"] = Way(z, phi, phi=(z, phi))
            z = self.two[place](phi)
            stream = stream + z
            below = f"two.{place}"
            self.ways[below] = Way(z)
        u = self.norms[3](stream)
        self.ways[below].a, self.ways[below].norm = u, (stream, u)
        out: Tensor = self.head(u)
        self.ways["head"] = Way(out)
        return out


class Shared(Kept):
    """A skip from the output itself, and an activation function on the way."""

    shape = (16, 6)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x)
        after = torch.tanh(stem)
        self.ways = {"stem": Way(stem, after, phi=(stem, after), join=(stem, after))}
        z = self.body(after)
        phi = torch.relu(z)
        joined = phi + stem
        self.ways["body"] = Way(z, joined, phi=(z, phi))
        out: Tensor = self.head(joined)
        self.ways["head"] = Way(out)
        return out


class Dense(Kept):
    """Every layer takes in all that the layers before returned (Huang et al. 2017)."""

    shape = (8, 3, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 * (place + 1), 3, 3, padding=1) for place in range(3))
        self.head = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        features, self.ways = [x], {}
        for place, layer in enumerate(self.layers):
            inputs = torch.cat(features, 1)
            if place:
                self._follow(place - 1, features[-1], inputs, joins=True)
            z = layer(inputs)
            features.append(torch.relu(z))
            self.ways[f"layers.{place}"] = Way(z, phi=(z, features[-1]))
        joined = torch.cat(features, 1)
        self._follow(2, features[-1], joined, joins=False)
        pooled = joined.mean((2, 3))
        self.ways["layers.2"].a = pooled
        out: Tensor = self.head(pooled)
        self.ways["head"] = Way(out)
        return out

    def _follow(self, place: int, phi: Tensor, joined: Tensor, joins: bool) -> None:
        way = self.ways[f"layers.{place}"]
        way.a, way.join = joined, (phi, joined) if joins else None


class WrittenOut(Kept):
    """RMS normalizations in elementary operations, before a skip leaves and behind a layer of their own."""

    shape = (4, 5, 6)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.last, self.head = (nn.Linear(6, 6) for _ in range(4))
        self.norm = nn.RMSNorm(6, eps=1e-6)
        nn.init.uniform_(self.norm.weight, 0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x)
        normal = stem * torch.rsqrt((stem * stem).mean(-1, keepdim=True) + 1e-6)
        phi = torch.tanh(normal)
        self.ways = {"stem": Way(stem, phi, norm=(stem, normal), phi=(normal, phi), join=(stem, normal))}
        body = self.body(phi)
        stream = stem + body
        normal = self.norm(stream)
        self.ways["body"] = Way(body, normal, norm=(stream, normal), join=(stream, normal))
        last = self.last(normal)
        u = self.norm(last)
        phi = F.softplus(u)
        joined = stream + phi
        self.ways["last"] = Way(last, joined, norm=(last, u), phi=(u, phi))
        out: Tensor = self.head(joined)
        self.ways["head"] = Way(out)
        return out


MODELS: tuple[type[Kept], ...] = (Plain, Convolutional, PostActivation, PreActivation, Shared, Dense, WrittenOut)


def loss_of(model: Kept, x: Tensor) -> Tensor:
    """A loss in which every output counts differently."""
    z: Tensor = model(x)
    weights = torch.linspace(0.5, 2.0, z.numel(), dtype=z.dtype).reshape(z.shape)
    return (weights * z.square()).sum()
