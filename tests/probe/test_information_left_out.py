"""What a fixed sample says nothing of: layers that are constant but for rounding."""

from __future__ import annotations

from pathlib import Path

import torch
from sampled_trainings import data, loaded, train
from torch import nn

import gradscope as gs
from gradscope.metrics.information import with_ends
from gradscope.probe.information import Informant, fixed_sample
from gradscope.probe.layers import find_layers
from gradscope.spec import LayerSpec


def collapsed() -> nn.Sequential:
    """Twelve sigmoid layers as they are initialized: the last ones hand on rounding."""
    torch.manual_seed(0)
    layers = [one for width in (6, *[32] * 11) for one in (nn.Linear(width, 32), nn.Sigmoid())]
    return nn.Sequential(*layers, nn.Linear(32, 3))


def test_a_layer_of_rounding_has_no_rank(tmp_path: Path) -> None:
    """What `information_of` warns of is left out of a run; what knows the size of rounding stays."""
    model = collapsed()
    train(model, 1, tmp_path / "run", sample=data(), metrics=["backward", "information"])
    direct = gs.information_of(model, *data(), metrics="all").query("depth > 0")
    warned = direct[direct["warning"].str.contains("constant but for rounding")]
    metrics = set(direct["metric"]) - {"input_information", "label_information"}
    assert warned["depth"].nunique() > 2
    assert set(warned["metric"]) == metrics
    run = loaded(tmp_path / "run")
    assert run.profile("input_information").index.tolist() == list(range(1, 14))
    for metric in metrics:
        told = direct[(direct["metric"] == metric) & direct["value"].notna()]
        clean = told.loc[~told["warning"].str.contains("constant but for rounding"), "depth"]
        assert run.profile(metric).index.tolist() == clean.tolist()
    assert set(run.profile("effective_rank_low").index) == set(run.profile("effective_rank").index)


def test_what_is_left_out_is_said_once_in_the_run_and_warns_nobody(tmp_path: Path) -> None:
    train(collapsed(), 4, tmp_path / "run", sample=data(), information_every=1, metrics=["backward", "effective_rank"])
    texts = loaded(tmp_path / "run").events["text"]
    (told,) = texts[texts.str.contains("rounding")]
    assert told.startswith("of the fixed sample: layer ")
    assert told.endswith("layer 24: effective_rank left out where the layer is constant but for rounding")


def test_what_was_left_out_has_a_reason() -> None:
    model = collapsed()
    layers = find_layers(model)
    specs = [
        LayerSpec(id=place, layer=one.name, call=1, depth=place + 1, parents=(place - 1,) if place else ())
        for place, one in enumerate(layers)
    ]
    names = ("effective_rank", "cka_input", "input_information")
    informant = Informant(model, layers, fixed_sample(data()), 1, with_ends(names))
    found = informant.measure(specs)
    flat = [one.layer for one in specs if "effective_rank" not in found[one.id]]
    assert len(flat) > 2
    assert informant.unmeasured == {
        name: f"layer {name}: effective_rank, cka_input left out where the layer is constant but for rounding"
        for name in flat
    }
