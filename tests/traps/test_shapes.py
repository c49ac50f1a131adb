"""Models of every shape: each layer call has its row, the row is what autograd says, and the training is untouched.

Full backward hooks fail on in-place functions and views (pytorch#61519, vision#4164), outputs that are no tensor break
observers (transformers#36508), modules called twice overwrite their own record (pytorch-summary#37).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import loss_of, norm, truth
from shapes import SHAPES, shape
from torch import nn

import gradscope as gs

NO_ROWS = {"encoder": {"layer.self_attn.out_proj"}, "encoder, norm first": {"layer.self_attn.out_proj"}}
NO_ROWS["decoder"] = {"layer.self_attn.out_proj", "layer.multihead_attn.out_proj"}
# Their weights are computed in every forward pass.
COMPUTED = ("weight_norm", "spectral_norm", "orthogonal", "pruned")


def recorded(model: nn.Module, inputs: dict[str, Any], folder: Path, steps: int = 1) -> gs.Run:
    with gs.watch(model, out=folder, every=1, metrics="all") as probe:
        for _ in range(steps):
            model.zero_grad()
            loss_of(model(**inputs)).backward()
            probe.step()
    return probe.run


def row(run: gs.Run, metric: str, step: int = 0) -> np.ndarray:
    """A value for every layer call, NaN where there is none."""
    return run.frame(metric).reindex(index=[step], columns=run.layers["depth"]).to_numpy()[0]


@pytest.mark.parametrize("name", SHAPES)
def test_every_layer_call_has_the_numbers_of_autograd(name: str, tmp_path: Path) -> None:
    model, twin = shape(name), shape(name)
    inputs = model.inputs()
    if name == "lazy":
        twin(**inputs)
        model.load_state_dict(twin.state_dict())
    expected = truth(twin, lambda one: loss_of(one(**inputs)))
    run = recorded(model, inputs, tmp_path / "run")
    layers = run.layers
    assert list(zip(layers["layer"], layers["call"], strict=True)) == [(one.layer, one.call) for one in expected]
    norms = [norm(one.grad) for one in expected]
    sizes = [norm(one.output) / math.sqrt(max(one.output.numel(), 1)) for one in expected]
    np.testing.assert_allclose(row(run, "output_grad_norm"), norms, rtol=1e-9)
    np.testing.assert_allclose(row(run, "output_rms"), sizes, rtol=1e-9)


@pytest.mark.parametrize("name", [name for name in SHAPES if name not in COMPUTED])
def test_weight_gradients_are_those_of_the_parameters(name: str, tmp_path: Path) -> None:
    model = shape(name)
    run = recorded(model, model.inputs(), tmp_path / "run", steps=2)
    first = (run.layers["call"] == 1).to_numpy()
    weights = [model.get_submodule(layer).weight for layer in run.layers["layer"][first]]
    norms = [norm(weight.grad if weight.numel() else None) for weight in weights]
    np.testing.assert_allclose(row(run, "weight_grad_norm", step=1)[first], norms, rtol=1e-9)


@pytest.mark.parametrize("name", SHAPES)
def test_the_training_is_untouched(name: str) -> None:
    model = shape(name)
    report = gs.verify(model, torch.optim.SGD, lambda output, _: loss_of(output), (model.inputs(), None))
    assert report.identical, str(report)


def modules_with_other_parameters(model: nn.Module, watched: set[str]) -> set[str]:
    """Name the modules that hold parameters which are of no layer and no normalization; the model by its class."""
    known = {id(one) for name in watched for one in model.get_submodule(name).parameters()}
    for module in model.modules():
        if "Norm" in type(module).__name__:
            known.update(map(id, module._parameters.values()))
    owners = {
        name.rpartition(".")[0] for name, one in model.named_parameters(remove_duplicate=False) if id(one) not in known
    }
    return {owner or type(model).__name__ for owner in owners}


@pytest.mark.parametrize("name", SHAPES)
def test_coverage_accounts_for_every_layer(name: str, tmp_path: Path) -> None:
    model = shape(name)
    run = recorded(model, model.inputs(), tmp_path / "run")
    codes = run.coverage.set_index("layer")["code"]
    assert "error" not in set(codes)
    watched = {
        part for part, module in model.named_modules() if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    }
    others = set(codes.index[codes == "unwatched"])
    assert others == modules_with_other_parameters(model, watched)
    codes = codes[codes != "unwatched"]
    assert set(codes.index) == watched
    never = set(codes.index[codes == "never_called"])
    assert never == NO_ROWS.get(name, set()) | ({"never"} if name == "side head" else set())
    assert set(codes.index) - never == set(run.layers["layer"])
