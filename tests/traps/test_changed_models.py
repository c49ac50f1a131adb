"""A model that changes after it was watched: what came later is named, what was replaced passes not for unused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import gradscope as gs


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randn(5, 6)).square().mean().backward()
    optimizer.step()


def append(model: nn.Sequential) -> None:
    model.append(nn.Linear(4, 2))


def replace(model: nn.Sequential) -> None:
    model[2] = nn.Linear(8, 3)


def remove(model: nn.Sequential) -> None:
    del model[2]


CHANGES: dict[str, tuple[Callable[[nn.Sequential], None], dict[str, str], str]] = {
    "appended": (append, {"0": "recorded", "2": "unknown_activation", "3": "added"}, "3"),
    "replaced": (replace, {"0": "recorded", "2": "added"}, "2"),
    "removed": (remove, {"0": "recorded", "2": "gone"}, ""),
}


@pytest.mark.parametrize("name", CHANGES)
def test_coverage_of_a_model_that_changes(name: str, tmp_path: Path) -> None:
    change, codes, added = CHANGES[name]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = gs.watch(model, optimizer, out=tmp_path / "run", every=1)
    train(model, optimizer)
    assert set(probe.coverage()["layer"]) == {"0", "2"}
    change(model)
    optimizer.param_groups[0]["params"] = list(model.parameters())
    train(model, optimizer)
    found = probe.coverage()
    assert dict(zip(found["layer"], found["code"], strict=True)) == codes
    text = f"these layers came to the model after it was watched, and were not recorded: {added}"
    with pytest.warns(UserWarning, match=f"^{text}$") if added else contextlib.nullcontext():
        probe.close()
    run = probe.run
    last = run.coverage.drop_duplicates("layer", keep="last")
    assert dict(zip(last["layer"], last["code"], strict=True)) == codes
    assert (text in run.events["text"].tolist()) == bool(added)


def test_what_is_wrapped_or_parametrized_after_watching_is_no_stranger(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1) as probe:
        model[0] = nn.Sequential(model[0], nn.Dropout(0.0))
        nn.utils.parametrizations.weight_norm(model[2])
        optimizer.param_groups[0]["params"] = list(model.parameters())
        train(model, optimizer)
        assert probe.coverage()["layer"].tolist() == ["0", "2"]


def test_layers_that_were_chosen_are_no_reason_to_warn_of_others(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    with gs.watch(model, out=tmp_path / "run", every=1, layers="0") as probe:
        append(model)
        model(torch.randn(5, 6)).sum().backward()
        probe.step()
        found = probe.coverage()
    assert dict(zip(found["layer"], found["code"], strict=True))["3"] == "added"


def test_coverage_of_a_weight_that_is_computed_for_a_while(tmp_path: Path) -> None:
    """Pruned in the middle of a training, and made whole again."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    codes = []
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1) as probe:
        for change in ("none", "pruned", "made whole"):
            if change == "pruned":
                prune.random_unstructured(model[0], "weight", 0.5)
            elif change == "made whole":
                prune.remove(model[0], "weight")
            optimizer.param_groups[0]["params"] = list(model.parameters())
            train(model, optimizer)
            codes.append(probe.coverage()["code"].tolist()[0])
    assert codes == ["recorded", "computed_weight", "recorded"]
