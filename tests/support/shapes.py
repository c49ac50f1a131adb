"""Models of many shapes."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

DOUBLE = torch.float64


class Shape(nn.Module):
    """A model that says what it takes."""

    def inputs(self) -> dict[str, Any]:
        return {"x": torch.randn(4, 6, dtype=DOUBLE)}


class Encoder(Shape):
    """The attention calls its output projection as a function: its module's hooks never fire."""

    def __init__(self, norm_first: bool = False) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, norm_first=norm_first)

    def inputs(self) -> dict[str, Any]:
        return {"x": torch.randn(3, 5, 6, dtype=DOUBLE)}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x)).mean(1))


class Decoder(Shape):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(8, 2, 12, dropout=0.0, batch_first=True, activation="gelu")
        self.head = nn.Linear(8, 3)

    def inputs(self) -> dict[str, Any]:
        return {"x": torch.randn(3, 5, 8, dtype=DOUBLE), "memory": torch.randn(3, 4, 8, dtype=DOUBLE)}

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        return self.head(self.layer(x, memory))


class Recurrent(Shape):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(6, 8, 2, batch_first=True), nn.Linear(8, 3)

    def inputs(self) -> dict[str, Any]:
        return {"x": torch.randn(3, 5, 6, dtype=DOUBLE)}

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.lstm(x)
        return self.head(out[:, -1])


class Unrolled(Shape):
    """A cell and two layers that are called once for every token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cell, self.head = nn.Linear(6, 8), nn.GRUCell(8, 8), nn.Linear(8, 3)

    def inputs(self) -> dict[str, Any]:
        return {"x": torch.randn(3, 4, 6, dtype=DOUBLE)}

    def forward(self, x: Tensor) -> list[Tensor]:
        state, outputs = x.new_zeros(len(x), 8), []
        for token in x.unbind(1):
            state = self.cell(torch.tanh(self.embed(token)), state)
            outputs.append(self.head(state))
        return outputs


class Images(Shape):
    def inputs(self) -> dict[str, Any]:
        return {"x": torch.randn(3, 2, 8, 8, dtype=DOUBLE)}


class UNet(Images):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.up, self.out = nn.ConvTranspose2d(8, 4, 2, stride=2), nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        high = F.relu(self.down(x), inplace=True)
        low = F.relu(self.deep(F.max_pool2d(high, 2)), inplace=True)
        return self.out(torch.cat([high, F.relu(self.up(low), inplace=True)], 1))


class Dense(Images):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(2 + 3 * place) for place in range(3))
        self.layers = nn.ModuleList(nn.Conv2d(2 + 3 * place, 3, 3, padding=1, bias=False) for place in range(3))
        self.head = nn.Linear(11, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        for norm, layer in zip(self.norms, self.layers, strict=True):
            found.append(layer(F.relu(norm(torch.cat(found, 1)), inplace=True)))
        return self.head(torch.cat(found, 1).mean((2, 3)))


class SqueezeExcite(Images):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 1)
        self.squeeze, self.excite = nn.Linear(4, 2), nn.Linear(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.conv(x))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))), inplace=True)))
        return self.head(x * gate[:, :, None, None])


class Patches(Images):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Conv2d(2, 8, 4, stride=4), nn.Linear(8, 3)
        self.token, self.place = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.randn(1, 5, 8))
        self.norm, self.mix, self.out = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.place
        x = x + self.out(F.gelu(self.mix(self.norm(x))))
        return self.head(x[:, 0])


class Residual(Images):
    """A basic block: activation functions in place, and ``out += x``."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.norms, self.relu = nn.ModuleList(nn.BatchNorm2d(2) for _ in range(2)), nn.ReLU(inplace=True)
        self.head = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norms[1](self.second(self.relu(self.norms[0](self.first(x)))))
        out += x
        return self.head(self.relu(out).mean((2, 3)))


class Separable(Images):
    """An inverted residual: depthwise convolution between two of size one."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.depthwise = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.project, self.head, self.relu = nn.Conv2d(8, 2, 1), nn.Linear(2, 3), nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.project(self.relu(self.depthwise(self.relu(self.expand(x)))))
        return self.head(x.mean((2, 3)))


class Normed(Shape):
    """Layers whose weights are computed from other parameters."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        wrap: dict[str, Callable[[nn.Linear], nn.Module]] = {
            "weight_norm": parametrizations.weight_norm,
            "spectral_norm": parametrizations.spectral_norm,
            "orthogonal": parametrizations.orthogonal,
            "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
        }
        self.a, self.b, self.head = wrap[kind](nn.Linear(6, 6)), wrap[kind](nn.Linear(6, 6)), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.b(torch.tanh(self.a(x)))))


class Lazy(Shape):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.LazyLinear(5, dtype=DOUBLE), nn.LazyLinear(3, dtype=DOUBLE)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.a(x), inplace=True))


class Words(Shape):
    """Whole numbers in, sparse gradients, the embedding tied to the last layer."""

    def __init__(self, sparse: bool, tied: bool) -> None:
        super().__init__()
        self.embed, self.body, self.head = nn.Embedding(9, 6, sparse=sparse), nn.Linear(6, 6), nn.Linear(6, 9)
        if tied:
            self.head.weight = self.embed.weight

    def inputs(self) -> dict[str, Any]:
        return {"x": torch.randint(0, 9, (3, 5))}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(self.embed(x))))


class Experts(Shape):
    """Rows are routed to experts; one of them gets none."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.head = nn.Linear(6, 3), nn.Linear(6, 3)
        self.experts = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.gate(x).softmax(-1)
        out = torch.zeros_like(x)
        for place, rows in enumerate((torch.tensor([0, 2]), torch.tensor([1, 3]), torch.tensor([], dtype=torch.long))):
            found = torch.relu(self.experts[place](x[rows])) * weights[rows, place, None]
            out = out.index_add(0, rows, found)
        return self.head(out)


class TwoNames(Shape):
    """One layer registered twice, one function module called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.relu, self.head = nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)
        self.again = self.a

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.head(self.relu(self.again(self.relu(self.a(x))))))


Pair = namedtuple("Pair", ["logits", "hidden"])


@dataclass
class Output:
    logits: Tensor
    hidden: tuple[Tensor, ...]
    loss: Tensor | None = None


class Returning(Shape):
    """Outputs of many kinds; inputs by keyword only."""

    KINDS: tuple[str, ...] = ("dict", "tuple", "namedtuple", "dataclass", "list", "nested", "none beside")

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.a, self.head = kind, nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, *, x: Tensor) -> Any:
        hidden = torch.tanh(self.a(x))
        logits = torch.sigmoid(self.head(hidden))
        return {
            "dict": {"logits": logits, "hidden": hidden},
            "tuple": (logits, hidden),
            "namedtuple": Pair(logits, hidden),
            "dataclass": Output(logits, (hidden,)),
            "list": [logits, hidden],
            "nested": {"all": [{"logits": (logits,)}, Output(hidden, ())]},
            "none beside": (None, logits, "text", 3),
        }[self.kind]


class SideHead(Shape):
    """A head whose output the loss never sees, and one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head, self.side, self.never = (nn.Linear(6, 6) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.a(x))
        self.side(hidden)
        return self.head(hidden)


class FixedPoint(Shape):
    """Iterates without gradient, then once with."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros_like(x)
        with torch.no_grad():
            for _ in range(3):
                state = torch.tanh(self.body(state) + x)
        return self.head(torch.tanh(self.body(state) + x))


class Empty(Shape):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(6, 5), nn.Linear(5, 3)

    def inputs(self) -> dict[str, Any]:
        return {"x": torch.randn(0, 6, dtype=DOUBLE)}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.a(x)))


class Volumes(Shape):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv3d(1, 2, 3), nn.ConvTranspose3d(2, 1, 2, output_padding=1, stride=2)
        self.head = nn.Conv1d(6, 2, 3, dilation=2, groups=2)

    def inputs(self) -> dict[str, Any]:
        return {"x": torch.randn(2, 1, 4, 5, 6, dtype=DOUBLE)}

    def forward(self, x: Tensor) -> Tensor:
        x = F.elu(self.b(F.leaky_relu(self.a(x), inplace=True)), inplace=True)
        return self.head(x.flatten(1)[:, :120].reshape(2, 6, 20))


class Unbatched(Shape):
    """One sample, without a dimension for samples."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(6, 5), nn.Linear(5, 3)

    def inputs(self) -> dict[str, Any]:
        return {"x": torch.randn(6, dtype=DOUBLE)}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.a(x)))


SHAPES: dict[str, Callable[[], Shape]] = {
    "encoder": Encoder,
    "encoder, norm first": lambda: Encoder(True),
    "decoder": Decoder,
    "recurrent": Recurrent,
    "unrolled": Unrolled,
    "u-net": UNet,
    "dense": Dense,
    "squeeze-excite": SqueezeExcite,
    "patches": Patches,
    "residual": Residual,
    "separable": Separable,
    **{kind: lambda kind=kind: Normed(kind) for kind in ("weight_norm", "spectral_norm", "orthogonal", "pruned")},
    "lazy": Lazy,
    "words": lambda: Words(False, False),
    "words, sparse": lambda: Words(True, False),
    "words, tied": lambda: Words(False, True),
    "experts": Experts,
    "two names": TwoNames,
    **{f"returning {kind}": lambda kind=kind: Returning(kind) for kind in Returning.KINDS},
    "side head": SideHead,
    "fixed point": FixedPoint,
    "empty": Empty,
    "volumes": Volumes,
    "unbatched": Unbatched,
}


def shape(name: str) -> Shape:
    """A model of float64 with random weights, the same for the same name."""
    torch.manual_seed(0)
    return SHAPES[name]().to(DOUBLE)
