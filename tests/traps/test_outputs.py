"""Inputs and outputs of every kind, of models and of watched layers: nothing crashes, every tensor is found.

Observers that expect one tensor in and one out fail on models that return objects (transformers#36508) and on keyword
inputs (torchexplorer#53); smdebug gave up backward hooks over outputs that are no tensors.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import gradscope as gs

DOUBLE = torch.float64
Pair = namedtuple("Pair", ["logits", "rest"])


class Typed(NamedTuple):
    logits: Tensor
    rest: Any


@dataclasses.dataclass
class Data:
    logits: Tensor
    rest: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    logits: Tensor
    rest: Any = None


class ModelOutput(OrderedDict[str, Any]):
    """Like those of transformers: a mapping with attributes."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class Odd:
    """An object of no known kind."""

    def __init__(self, logits: Tensor, rest: Any) -> None:
        self.logits, self.rest = logits, rest


KINDS: dict[str, Callable[[Tensor, Any], Any]] = {
    "tensor": lambda logits, rest: logits,
    "tuple": lambda logits, rest: (logits, rest),
    "list": lambda logits, rest: [rest, logits],
    "dict": lambda logits, rest: {"logits": logits, "rest": rest},
    "ordered dict": lambda logits, rest: OrderedDict(rest=rest, logits=logits),
    "user dict": lambda logits, rest: UserDict(logits=logits, rest=rest),
    "model output": lambda logits, rest: ModelOutput(logits=logits, rest=rest),
    "namedtuple": Pair,
    "typed tuple": Typed,
    "dataclass": Data,
    "dataclass with slots": Slotted,
    "namespace": lambda logits, rest: SimpleNamespace(logits=logits, rest=rest),
    "object": Odd,
    "nested": lambda logits, rest: {"a": [(Data(logits, [rest]),)], "b": None},
    "deep": lambda logits, rest: deep(logits, 200),
    "generator": lambda logits, rest: (one for one in (logits, rest)),
    "none beside": lambda logits, rest: (None, 3, "text", logits),
    "distribution": lambda logits, rest: torch.distributions.Categorical(logits=logits),
}
RESTS: dict[str, Any] = {"nothing": None, "text": "text", "numbers": [1, 2.0, 3j], "whole numbers": torch.arange(3)}


def deep(logits: Tensor, levels: int) -> Any:
    return logits if not levels else [deep(logits, levels - 1)]


def logits_of(value: Any) -> Any:
    """The first tensor of real numbers in an output; None where there is none."""
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else None
    if hasattr(value, "logits"):
        return value.logits
    if isinstance(value, dict | UserDict):
        return logits_of(value["logits"] if "logits" in value else value["a"])
    parts = value if hasattr(value, "__iter__") and not isinstance(value, str) else ()
    return next((found for found in map(logits_of, parts) if found is not None), None)


class Model(nn.Module):
    def __init__(self, kind: str, rest: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.head = nn.Linear(6, 5), nn.Linear(5, 3)
        self.kind, self.rest = KINDS[kind], rest

    def forward(self, x: Tensor) -> Any:
        # The last activation function lies between the last layer and the output, wherever that is.
        return self.kind(torch.sigmoid(self.head(torch.tanh(self.a(x)))), self.rest)


@pytest.mark.parametrize("rest", RESTS)
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_of_a_model(kind: str, rest: str, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    runs = []
    for place, one in enumerate((kind, "tensor")):
        model = Model(one, RESTS[rest]).to(DOUBLE)
        x = torch.linspace(-1, 1, 24, dtype=DOUBLE).reshape(4, 6)
        with gs.watch(model, out=tmp_path / str(place), every=1, metrics="all") as probe:
            logits_of(model(x)).square().sum().backward()
            probe.step()
        runs.append(probe.run)
    assert not recwarn.list
    # Behind a distribution there is more than the model's own function; a generator cannot be looked into.
    exact = ["output_rms"] if kind == "distribution" else ["output_grad_norm", "output_rms", "weight_grad_norm"]
    for metric in exact:
        assert runs[0].frame(metric).equals(runs[1].frame(metric)), metric
    if kind not in ("generator", "distribution", "object", "dataclass with slots"):
        assert runs[0].layers["activation"].tolist() == ["tanh", "sigmoid"]


class Keyworded(nn.Linear):
    """A layer with keyword-only inputs, and more of them than it needs."""

    def forward(self, *, mask: Tensor | None = None, hidden: Tensor, names: tuple[str, ...] = ()) -> Tensor:  # type: ignore[override]
        out = super().forward(hidden)
        return out if mask is None else out * mask


@pytest.mark.parametrize("mask", [None, torch.ones(4, 1, dtype=DOUBLE)], ids=["plain", "mask"])
def test_keyword_inputs_of_a_layer(mask: Tensor | None, tmp_path: Path) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.head = nn.Linear(6, 5), Keyworded(5, 3)

        def forward(self, *, x: Tensor, flag: bool = True) -> Tensor:
            return self.head(hidden=torch.tanh(self.a(x)), mask=mask, names=("a",))

    model = Model().to(DOUBLE)
    x = torch.randn(4, 6, dtype=DOUBLE)
    hidden = torch.tanh(model.a(x))
    (total,) = torch.autograd.grad(model.head(hidden=hidden, mask=mask).square().sum(), hidden)
    with gs.watch(model, out=tmp_path / "run", every=1, metrics="all") as probe:
        model(x=x, flag=False).square().sum().backward()
        probe.step()
    run = probe.run
    assert not (run.coverage["code"] == "error").any()
    assert run.profile("output_grad_norm").notna().all()
    if mask is None:
        assert run.profile("input_grad_norm")[2] == pytest.approx(float(total.norm()), rel=1e-12)


class Returning(nn.Linear):
    """A layer that returns something else than a tensor."""

    def __init__(self, kind: str) -> None:
        super().__init__(5, 5)
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        return KINDS[self.kind](super().forward(x), None)


@pytest.mark.parametrize("kind", ["tuple", "dict", "dataclass", "namedtuple", "none beside"])
def test_outputs_of_a_layer(kind: str, tmp_path: Path) -> None:
    """What cannot be told is said, and the layers around it keep their rows."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.odd, self.head = nn.Linear(6, 5), Returning(kind), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(logits_of(self.odd(torch.tanh(self.a(x))))))

    model = Model()
    with gs.watch(model, out=tmp_path / "run", every=1, metrics="all") as probe:
        for _ in range(2):
            model(torch.randn(4, 6)).square().sum().backward()
            probe.step()
    run = probe.run
    coverage = run.coverage.set_index("layer")
    assert coverage["code"]["odd"] == "uncounted"
    assert coverage["text"]["odd"].endswith("not a tensor")
    assert run.rows("output_grad_norm").groupby("layer").size().to_dict() == {"a": 2, "head": 2}


def test_an_output_that_contains_itself(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """A reference to the parent is enough: every part is looked at once."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.head = nn.Linear(6, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> dict[str, Any]:
            found: dict[str, Any] = {"logits": torch.sigmoid(self.head(torch.tanh(self.a(x))))}
            found["self"] = found
            return found

    model = Model()
    with gs.watch(model, out=tmp_path / "run", every=1, metrics="all") as probe:
        model(torch.randn(4, 6))["logits"].sum().backward()
        probe.step()
    assert not recwarn.list
    assert probe.run.layers["activation"].tolist() == ["tanh", "sigmoid"]
