"""Activation checkpointing runs a forward pass again, inside the backward pass: that is no second call.

Hooks that do not tell record every layer twice (pytorch#81296, torchtitan#4148).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import gradscope as gs

# What torch says of a reentrant checkpoint inside another.
pytestmark = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
DOUBLE = torch.float64
WAYS: dict[str, Callable[..., Tensor]] = {
    "non-reentrant": partial(checkpoint, use_reentrant=False),
    "without random states": partial(checkpoint, use_reentrant=False, preserve_rng_state=False),
    "stopping late": partial(checkpoint, use_reentrant=False, determinism_check="default"),
    "reentrant": partial(checkpoint, use_reentrant=True),
}


class Blocks(nn.Module):
    """Blocks that are checkpointed, one by one or one inside the other."""

    def __init__(self, way: Callable[..., Tensor] | None, nested: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.way, self.nested = way, nested
        self.stem, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Dropout(dropout), nn.Linear(6, 6))
            for _ in range(2)
        )

    def body(self, place: int, x: Tensor) -> Tensor:
        if self.nested and place + 1 < len(self.blocks):
            return self.wrapped(partial(self.body, place + 1), torch.tanh(self.blocks[place](x)))
        return torch.tanh(self.blocks[place](x))

    def wrapped(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return function(x) if self.way is None else self.way(function, x)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        for place in range(1 if self.nested else len(self.blocks)):
            x = self.wrapped(partial(self.body, place), x)
        return self.head(x)


def recorded(model: nn.Module, folder: Path, steps: int = 2, micro_batches: int = 1) -> gs.Run:
    torch.manual_seed(1)
    x = torch.randn(8, 6, dtype=DOUBLE)
    with gs.watch(model, out=folder, every=1, metrics="all") as probe:
        for _ in range(steps):
            model.zero_grad()
            for part in x.chunk(micro_batches):
                model(part).square().sum().backward()
            probe.step()
    return probe.run


def pair(**settings: object) -> tuple[Blocks, Blocks]:
    way = settings.pop("way")
    found = []
    for one in (way, None):
        torch.manual_seed(0)
        found.append(Blocks(one, **settings).to(DOUBLE))  # type: ignore[arg-type]
    return found[0], found[1]


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_one_row_per_layer_and_step(way: str, nested: bool, dropout: float, micro_batches: int, tmp_path: Path) -> None:
    if dropout and way == "without random states":
        dropout = 0.0  # what is recomputed would not be what was computed
    model, plain = pair(way=WAYS[way], nested=nested, dropout=dropout)
    run, reference = (
        recorded(one, tmp_path / str(place), micro_batches=micro_batches) for place, one in enumerate((model, plain))
    )
    assert run.layers["call"].tolist() == [1] * 6
    for metric in ("output_grad_norm", "output_rms", "weight_grad_norm", "input_grad_norm", "output_mean"):
        np.testing.assert_allclose(run.frame(metric), reference.frame(metric), rtol=1e-12, err_msg=metric)
    assert len(run.frame("output_grad_norm")) == 2
    assert not run.coverage["code"].isin(["error", "missed", "repeated"]).any()


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_sequence_in_segments(reentrant: bool, tmp_path: Path) -> None:
    class Model(nn.Module):
        def __init__(self, segments: int) -> None:
            super().__init__()
            self.segments = segments
            self.body = nn.Sequential(*(part for _ in range(4) for part in (nn.Linear(6, 6), nn.Tanh())))

        def forward(self, x: Tensor) -> Tensor:
            # What enters a reentrant checkpoint needs a gradient, or nothing inside gets one.
            x = x.clone().requires_grad_(True)
            return (
                checkpoint_sequential(self.body, self.segments, x, use_reentrant=reentrant)
                if self.segments
                else self.body(x)
            )

    runs = []
    for segments in (2, 0):
        torch.manual_seed(0)
        runs.append(recorded(Model(segments).to(DOUBLE), tmp_path / str(segments)))
    for metric in ("output_grad_norm", "output_rms", "weight_grad_norm"):
        np.testing.assert_allclose(runs[0].frame(metric), runs[1].frame(metric), rtol=1e-12, err_msg=metric)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("reentrant", [False, True])
def test_the_training_is_untouched(reentrant: bool, dropout: float, nested: bool) -> None:
    model = pair(way=partial(checkpoint, use_reentrant=reentrant), nested=nested, dropout=dropout)[0]
    x = torch.randn(8, 6, dtype=DOUBLE)
    report = gs.verify(model, torch.optim.Adam, None, (x, torch.randn(8, 3, dtype=DOUBLE)))
    assert report.identical, str(report)


@pytest.mark.parametrize("nested", [False, True])
def test_parameters_are_right_with_both_kinds(nested: bool, tmp_path: Path) -> None:
    model, plain = pair(way=partial(checkpoint, use_reentrant=True), nested=nested)
    run, reference = (recorded(one, tmp_path / str(place)) for place, one in enumerate((model, plain)))
    found = run.rows("weight_grad_norm").set_index(["step", "layer"])["value"]
    expected = reference.rows("weight_grad_norm").set_index(["step", "layer"])["value"]
    np.testing.assert_allclose(found, expected.loc[found.index], rtol=1e-12)
    assert not run.coverage["code"].isin(["error", "missed", "repeated"]).any()


class Twice(nn.Module):
    """One layer in two checkpoints and twice in one of them; what is checkpointed may be frozen."""

    def __init__(self, reentrant: bool | None, calls: int = 2, frozen: bool = False) -> None:
        super().__init__()
        self.reentrant, self.calls = reentrant, calls
        self.stem, self.shared, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.shared.requires_grad_(not frozen)

    def body(self, x: Tensor) -> Tensor:
        for _ in range(self.calls):
            x = torch.tanh(self.shared(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        for _ in range(2):
            x = self.body(x) if self.reentrant is None else checkpoint(self.body, x, use_reentrant=self.reentrant)
        return self.head(x)


def twins(first: nn.Module, second: nn.Module, folder: Path) -> tuple[gs.Run, gs.Run]:
    second.load_state_dict(first.state_dict())
    return recorded(first.to(DOUBLE), folder / "first"), recorded(second.to(DOUBLE), folder / "second")


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("calls", [1, 2])
def test_calls_of_one_layer_in_several_checkpoints_stay_apart(calls: int, reentrant: bool, tmp_path: Path) -> None:
    """Segments are recomputed from the last to the first: every call still has its own row and its own depth."""
    run, plain = twins(Twice(reentrant, calls), Twice(None, calls), tmp_path)
    names = ["stem", *["shared"] * 2 * calls, "head"]
    assert run.layers["layer"].tolist() == names
    assert run.layers["call"].tolist() == plain.layers["call"].tolist()
    for metric in ("output_grad_norm", "output_rms", "input_grad_norm"):
        np.testing.assert_allclose(run.frame(metric), plain.frame(metric), rtol=1e-12, err_msg=metric)


@pytest.mark.parametrize("reentrant", [False, True])
def test_error_signals_of_frozen_layers_in_a_checkpoint(reentrant: bool, tmp_path: Path) -> None:
    """The backward pass inside the backward pass trains nothing by itself, and belongs to the one that does."""
    run, plain = twins(Twice(reentrant, 1, frozen=True), Twice(None, 1, frozen=True), tmp_path)
    np.testing.assert_allclose(run.frame("output_grad_norm"), plain.frame("output_grad_norm"), rtol=1e-12)


def test_parents_are_told_where_they_can_be(tmp_path: Path) -> None:
    """Within a checkpoint the graph is seen; what lies around it is not, and no layer is named in its place."""
    model, plain = pair(way=partial(checkpoint, use_reentrant=True))
    run, reference = (recorded(one, tmp_path / str(place)) for place, one in enumerate((model, plain)))
    layers = run.layers.reset_index()
    assert layers["layer"].tolist() == reference.layers["layer"].tolist()
    assert layers["layer"].tolist() == ["stem", "blocks.0.0", "blocks.0.3", "blocks.1.0", "blocks.1.3", "head"]
    assert [len(one) for one in layers["parents"]] == [0, 0, 1, 0, 1, 0]
    # The gradient of what enters a checkpoint is not that of what leaves it.
    assert run.frame("next_input_grad_norm").columns.tolist() == [2, 4]


def test_a_pass_without_gradient_beside_the_training_pass(tmp_path: Path) -> None:
    """A teacher or a target is no checkpoint: it changes no row and no depth."""

    class Model(nn.Module):
        def __init__(self, teaches: bool) -> None:
            super().__init__()
            self.teaches = teaches
            self.stem, self.block, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            if self.teaches:
                with torch.no_grad():
                    self.stem(self.block(x))
            hidden = torch.tanh(self.stem(x))
            return self.head(checkpoint(lambda one: torch.tanh(self.block(one)), hidden, use_reentrant=False))

    run, plain = twins(Model(True), Model(False), tmp_path)
    assert run.layers["layer"].tolist() == ["stem", "block", "head"]
    assert run.layers["call"].tolist() == [1, 1, 1]
    for metric in ("output_grad_norm", "output_rms", "input_grad_norm"):
        np.testing.assert_allclose(run.frame(metric), plain.frame(metric), rtol=1e-12, err_msg=metric)
