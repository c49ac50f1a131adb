"""Copies made while a model is watched: they work, carry no hook of the probe, and do not record.

Hooks that cannot be pickled or copied break saving, multiprocessing and averaging (pytorch#1148, smdebug#266).
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import loss_of
from shapes import SHAPES, shape
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import gradscope as gs


def through_torch(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def through_state(model: nn.Module) -> nn.Module:
    twin = copy.deepcopy(model)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    twin.load_state_dict(torch.load(file, weights_only=True))
    return twin


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": through_torch,
    "state_dict": through_state,
    "AveragedModel": lambda model: AveragedModel(model).module,
    "EMA": lambda model: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9)).module,
}
# Torch itself refuses: pickling of parametrizations; copies of what is no leaf, such as a pruned weight.
UNCOPIED = {"weight_norm", "spectral_norm", "orthogonal", "pruned"}
EVERYWHERE = ("deepcopy", "torch.save", "EMA")
CASES = [(name, kind) for name in SHAPES if name not in UNCOPIED for kind in COPIES if kind in EVERYWHERE]
CASES += [("residual", kind) for kind in COPIES if kind not in EVERYWHERE]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_copy_of_a_watched_model_does_not_record(name: str, kind: str, tmp_path: Path) -> None:
    model = shape(name)
    inputs = model.inputs()
    settled(model, inputs)
    with gs.watch(model, out=tmp_path / "run", every=1, metrics="all") as probe:
        twin = COPIES[kind](model)
        before = loss_of(model(**inputs))
        before.backward()
        loss = loss_of(twin(**inputs))
        loss.backward()
        loss_of(twin(**inputs)).backward()
        probe.step()
    assert torch.equal(before, loss)
    assert not any("gradscope" in type(hook).__module__ for hook in hooks_of(twin))
    run = probe.run
    assert not (run.coverage["code"].isin(["error", "repeated"])).any()
    alone = shape(name)
    settled(alone, inputs)
    with gs.watch(alone, out=tmp_path / "alone", every=1, metrics="all") as reference:
        loss_of(alone(**inputs)).backward()
        reference.step()
    assert run.frame("output_grad_norm").equals(reference.run.frame("output_grad_norm"))
    assert run.layers.equals(reference.run.layers)


def settled(model: nn.Module, inputs: dict[str, Any]) -> None:
    """Lazy layers draw their weights in the first forward pass."""
    torch.manual_seed(1)
    model(**inputs)


def hooks_of(model: nn.Module) -> list[Any]:
    owners: list[Any] = [*model.modules(), *model.parameters()]
    found = []
    for owner in owners:
        kept = {**vars(owner), "_backward_hooks": owner._backward_hooks}
        kept["_post_accumulate_grad_hooks"] = getattr(owner, "_post_accumulate_grad_hooks", None)
        for key, value in kept.items():
            if "_hooks" in key and isinstance(value, dict):
                found += list(value.values())
    return found


@pytest.mark.parametrize("kind", ["deepcopy", "pickle", "torch.save"])
def test_a_copy_can_be_watched_beside_the_original(kind: str, tmp_path: Path) -> None:
    model = shape("residual")
    inputs = model.inputs()
    with gs.watch(model, out=tmp_path / "first", every=1) as first:
        twin = COPIES[kind](model)
        with gs.watch(twin, out=tmp_path / "second", every=1) as second:
            for one in (model, twin):
                loss_of(one(**inputs)).backward()
            first.step()
            second.step()
    assert first.run.frame("output_grad_norm").equals(second.run.frame("output_grad_norm"))
    assert not hooks_of(model)


@pytest.mark.parametrize("average", [None, get_ema_multi_avg_fn(0.9)], ids=["mean", "ema"])
def test_an_average_is_kept_while_watching(average: Any, tmp_path: Path) -> None:
    """The average is the same with and without a probe, and is no part of the run."""
    results = []
    for watched in (False, True):
        model = shape("dense")
        inputs = model.inputs()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        probe = gs.watch(model, optimizer, out=tmp_path / "run", every=1) if watched else None
        for _ in range(3):
            loss_of(model(**inputs)).backward()
            optimizer.step()
            optimizer.zero_grad()
            averaged.update_parameters(model)
            with torch.no_grad():
                averaged(**inputs)
        if probe:
            probe.close()
            assert probe.run.steps() == [0, 1, 2]
        results.append(averaged.state_dict())
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


def test_a_copy_of_an_optimizer_does_not_close_steps(tmp_path: Path) -> None:
    model = shape("u-net")
    optimizer = torch.optim.Adam(model.parameters())
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1) as probe:
        twin = copy.deepcopy(optimizer)
        restored = pickle.loads(pickle.dumps(optimizer))
        loss_of(model(**model.inputs())).backward()
        twin.step()
        restored.step()
        optimizer.step()
    assert probe.run.steps() == [0]
    assert not [key for key, value in vars(twin).items() if key.endswith("_hooks") and value]
