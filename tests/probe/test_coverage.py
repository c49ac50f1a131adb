"""Coverage: what a run holds of every layer, tier by tier, and in words why the rest is missing."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

import gradscope as gs

TIERS = ["parameters", "boundaries", "units"]


class Zoo(nn.Module):
    """A model with a layer for every reason that a single training step can show."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen_first = nn.Linear(4, 4).requires_grad_(False)
        self.whole = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4)
        self.frozen.weight.requires_grad_(False)
        self.unknown = nn.Linear(4, 4)
        self.computed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        self.aside = nn.Linear(4, 4)
        self.scored = nn.Linear(4, 4)
        self.left = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.whole(self.frozen_first(x)))
        x = torch.relu(self.frozen(x))
        x = torch.sin(self.unknown(x))
        x = torch.relu(self.computed(x))
        self.aside(x)
        with torch.no_grad():
            self.scored(x)
        return self.head(x)


def train_zoo(out: Path, steps: int = 1) -> gs.Probe:
    model = Zoo()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gs.watch(model, optimizer, out=out, every=1, layers=lambda name, _: name != "left") as probe:
        for _ in range(steps):
            model(torch.randn(70, 4)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    return probe


EXPECTED = {
    "frozen_first": ("no_gradient", "part", "part", "no"),
    "whole": ("recorded", "yes", "yes", "yes"),
    "frozen": ("frozen", "part", "yes", "yes"),
    "unknown": ("unknown_activation", "yes", "yes", "no"),
    "computed": ("computed_weight", "part", "yes", "yes"),
    "aside": ("unused", "part", "part", "no"),
    "scored": ("uncounted", "no", "no", "no"),
    "head": ("recorded", "yes", "yes", "no"),
    "left": ("filtered", "no", "no", "no"),
}


def test_every_layer_has_a_code_and_its_tiers(tmp_path: Path) -> None:
    probe = train_zoo(tmp_path / "run")
    found = probe.coverage().set_index("layer")[["code", *TIERS]]
    assert {name: tuple(row) for name, row in zip(found.index, found.to_numpy().tolist(), strict=True)} == EXPECTED


def test_what_coverage_promises_is_what_the_rows_hold(tmp_path: Path) -> None:
    run = train_zoo(tmp_path / "run").run
    held = {name: set(run.rows(name).dropna()["layer"]) for name in run.metrics}
    for name, (_, parameters, boundaries, units) in EXPECTED.items():
        assert (name in held["weight_grad_norm_raw"]) == (parameters == "yes"), name
        assert (name in held["output_rms"]) == (boundaries != "no"), name
        assert (name in held["output_grad_norm"]) == (boundaries == "yes"), name
        assert (name in held["dead_fraction"]) == (units == "yes"), name


def test_coverage_prints_tiers_and_reasons(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.spare, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.hidden(x)))

    model = Two()
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        waiting = str(probe.coverage())
        model(torch.randn(70, 4)).sum().backward()
        probe.step()
    text = """
        tier        layers  what it is
        parameters  2 of 3  weights, their gradients and updates
        boundaries  2 of 3  activations and error signals
        units       1 of 3  units of activation functions

        layer   parameters  boundaries  units  code          text
        hidden  yes         yes         yes    recorded      everything
        spare   no          no          no     never_called  {never}
        head    yes         yes         no     recorded      all but the metrics of phi: no activation function follows
    """
    never = "not called in a forward pass (its hook never fired: unused, fused, or called by another name)"
    assert str(probe.coverage()) == textwrap.dedent(text).strip().format(never=never)
    assert str(probe.run.coverage) == str(probe.coverage())
    assert waiting.startswith("tier        layers   what it is\nparameters  not yet  weights")


def test_a_coverage_is_an_ordinary_table_otherwise(tmp_path: Path) -> None:
    found = train_zoo(tmp_path / "run").coverage()
    assert isinstance(found, pd.DataFrame)
    assert list(found.columns) == ["layer", "code", "expected", "fired", "text", *TIERS]
    assert type(found[found["code"] == "recorded"]) is pd.DataFrame
    assert str(found[found["code"] == "none"].to_dict("records")) == "[]"


def test_the_run_keeps_coverage_for_readers_and_only_its_changes(tmp_path: Path) -> None:
    run = train_zoo(tmp_path / "run", steps=3).run
    kept = run.coverage
    assert list(kept.columns) == ["step", "rank", "layer", "code", "expected", "fired", "text", *TIERS]
    assert kept["step"].unique().tolist() == [0]
    assert kept["layer"].tolist() == list(EXPECTED)
    foreign = pd.read_parquet(tmp_path / "run" / "coverage")
    assert foreign.set_index("layer")["units"].to_dict() == {name: one[3] for name, one in EXPECTED.items()}


def test_a_run_of_an_earlier_version_loads_with_tiers_unknown(tmp_path: Path) -> None:
    train_zoo(tmp_path / "run")
    for part in (tmp_path / "run" / "coverage").glob("*.parquet"):
        pq.write_table(pq.read_table(part).drop_columns(TIERS), part)
    kept = gs.load(tmp_path / "run").coverage
    assert kept["code"].tolist() == [code for code, *_ in EXPECTED.values()]
    assert kept[TIERS].isna().all(axis=None)
    assert str(kept).splitlines()[:2] == [
        "layer         code                text",
        "frozen_first  no_gradient         its output needs no gradient: frozen, with nothing to train before it",
    ]


def test_metrics_that_were_not_chosen_leave_their_tier_out(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with gs.watch(model, out=tmp_path / "run", every=1, metrics="weight_grad_norm") as probe:
        model(torch.randn(4, 4)).sum().backward()
        probe.step()
    assert probe.coverage()[TIERS].to_numpy().tolist() == [["yes", "-", "-"]] * 2
    assert probe.coverage()["text"].tolist() == ["all that the chosen metrics ask for"] * 2
    assert "boundaries  not chosen" in str(probe.coverage())


class Speech(nn.Module):
    """A model whose parameters are mostly of modules that are no layers."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.cell = nn.LSTM(8, 64, batch_first=True)
        self.norm, self.bend = nn.LayerNorm(64), nn.PReLU()
        self.attention = nn.MultiheadAttention(64, 2, batch_first=True)
        self.rest = nn.utils.parametrizations.weight_norm(nn.GRUCell(64, 4), "weight_hh")
        self.gain = nn.Parameter(torch.ones(1))
        self.offset = nn.Parameter(torch.zeros(3), requires_grad=False)
        self.head = nn.Linear(64, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.bend(self.norm(self.cell(self.words(tokens))[0]))
        x = self.attention(x, x, x, need_weights=False)[0]
        return self.gain * self.head(x).mean() + self.offset.sum() + self.rest(x[:, 0]).mean()


OTHERS = {
    "Speech": "Speech is no linear or convolution layer: its own parameter (gain) is not recorded",
    "words": "Embedding is no linear or convolution layer: its own 160 parameters (weight) are not recorded",
    "cell": "LSTM is no linear or convolution layer: its own 18,944 parameters "
    "(weight_ih_l0, weight_hh_l0, bias_ih_l0, 1 more) are not recorded",
    "attention": "MultiheadAttention is no linear or convolution layer: its own 12,480 parameters "
    "(in_proj_weight, in_proj_bias) are not recorded",
    "rest": "GRUCell is no linear or convolution layer: its own 852 parameters "
    "(weight_ih, bias_ih, bias_hh, 1 more) are not recorded",
}


def test_modules_that_train_and_are_no_layers_have_rows_of_their_own(tmp_path: Path) -> None:
    """A run of an LSTM is not recorded wholly because its head is; a normalization is part of a layer."""
    model = Speech()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1) as probe:
        waiting = str(probe.coverage())
        model(torch.randint(20, (2, 5))).backward()
        optimizer.step()
    for found in (probe.coverage(), probe.run.coverage):
        others = found[found["code"] == "unwatched"]
        assert dict(zip(others["layer"], others["text"], strict=True)) == OTHERS
        assert others[TIERS].to_numpy().tolist() == [["no", "no", "no"]] * len(OTHERS)
        assert found[found["code"] != "unwatched"]["layer"].tolist() == ["attention.out_proj", "head"]
        head = [" ".join(line.split()[:4]) for line in str(found).splitlines()[:4]]
        assert head == ["tier modules what it", "parameters 1 of 7", "boundaries 1 of 7", "units 0 of 7"]
    assert waiting.splitlines()[1].startswith("parameters  not yet  weights")


def test_the_rows_of_what_is_no_layer_name_every_parameter_that_trains(tmp_path: Path) -> None:
    """Counted independently: what the texts say, and what layers and normalizations hold, is all of the model."""
    model = Speech()
    with gs.watch(model, out=tmp_path / "run") as probe:
        found = probe.coverage()
    told = [text.split("its own ")[1].split(" ")[0] for text in found["text"] if "its own " in text]
    others = sum(1 if number == "parameter" else int(number.replace(",", "")) for number in told)
    in_layers = sum(one.numel() for part in (model.head, model.attention.out_proj) for one in part.parameters())
    apart = sum(one.numel() for part in (model.norm, model.bend) for one in part.parameters())
    assert others + in_layers + apart == sum(one.numel() for one in model.parameters() if one.requires_grad)


def test_an_embedding_that_shares_its_weight_with_the_head_is_read_there(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Embedding(20, 8), nn.Tanh(), nn.Linear(8, 20, bias=False))
    model[2].weight = model[0].weight
    with gs.watch(model, out=tmp_path / "run") as probe:
        assert probe.coverage()["layer"].tolist() == ["2"]


def test_what_is_no_layer_holds_nothing_of_a_tier_that_was_not_chosen(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 2))
    with gs.watch(model, out=tmp_path / "run", every=1, metrics="weight_grad_norm") as probe:
        model(torch.randint(20, (5,))).sum().backward()
        probe.step()
    assert probe.coverage()[["layer", *TIERS]].to_numpy().tolist() == [["1", "yes", "-", "-"], ["0", "no", "-", "-"]]
    assert "boundaries  not chosen" in str(probe.coverage())


def test_a_layer_that_takes_the_place_of_what_is_no_layer_is_named(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 2))
    probe = gs.watch(model, out=tmp_path / "run", every=1)
    model[0] = nn.Linear(4, 8)
    assert probe.coverage().set_index("layer")["code"].to_dict() == {"1": "not_yet", "0": "added"}
    with pytest.warns(UserWarning, match="came to the model after it was watched"):
        probe.close()


def test_parameters_are_recorded_where_no_call_can_be_seen(tmp_path: Path) -> None:
    """A forward pass in evaluation mode does not count; what the optimizer then applies is known all the same."""
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norms = []
    probe = gs.watch(model, optimizer, out=tmp_path / "run", every=1)
    for _ in range(2):
        model(torch.randn(3, 4)).sum().backward()
        norms.append([float(model[place].weight.grad.norm()) for place in (0, 2)])
        optimizer.step()
        optimizer.zero_grad()
    with pytest.warns(UserWarning, match="in 2 recorded steps: the layers were called only in evaluation mode"):
        probe.close()
    np.testing.assert_allclose(probe.run.frame("weight_grad_norm"), norms, rtol=1e-6)
    assert probe.run.frame("output_rms").empty
    assert probe.coverage()[["code", *TIERS]].to_numpy().tolist() == [["uncounted", "yes", "no", "no"]] * 2
    assert not any(one.resolved for one in probe.run.specs)


def test_layers_take_their_place_once_their_calls_are_seen(tmp_path: Path) -> None:
    class Reversed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.middle, self.first = nn.Linear(4, 2), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.tanh(self.middle(torch.tanh(self.first(x)))))

    model = Reversed().eval()
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        for step in range(2):
            model(torch.randn(3, 4)).sum().backward()
            probe.step()
            names = probe.run.layers["layer"].tolist()
            assert names == (["last", "middle", "first"] if step == 0 else ["first", "middle", "last"])
            model.train()
    assert all(one.resolved for one in probe.run.specs)
    assert probe.run.trunk == (1, 2, 3)
    assert list(probe.run.frame("weight_grad_norm").index) == [0, 1]
    assert list(probe.run.frame("output_grad_norm").index) == [1]


def test_a_layer_that_is_skipped_for_a_step_stays_missing_there(tmp_path: Path) -> None:
    class Depth(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.maybe, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
            self.skip = False

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.first(x))
            return self.last(x if self.skip else x + torch.relu(self.maybe(x)))

    model = Depth()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1) as probe:
        for step in range(3):
            model.skip = step == 1
            model(torch.randn(3, 4)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    missing = probe.run.frame("output_grad_norm").isna()
    assert missing.to_numpy().tolist() == [[False] * 3, [False, True, False], [False] * 3]
    told = probe.run.coverage.query("layer == 'maybe'")
    assert told[["step", "code"]].to_numpy().tolist() == [[0, "recorded"], [1, "never_called"], [2, "recorded"]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("every", [1, 100])
def test_a_cuda_graph_is_captured_and_replayed_with_a_probe_attached(every: int, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)).cuda()
    x = torch.randn(16, 8, device="cuda")
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            model(x).square().mean().backward()
    torch.cuda.current_stream().wait_stream(side)
    model.zero_grad(set_to_none=True)
    with gs.watch(model, out=tmp_path / "run", every=every) as probe:
        if every > 1:
            probe.step()  # the capture is on an unrecorded step
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            model(x).square().mean().backward()
        if every == 1:
            text = "called only while a CUDA graph was captured: nothing can be read then, and replays call no hook"
            graph.replay()
            probe.step()
            assert probe.coverage()["text"].unique().tolist() == [text]
        norms = []
        for _ in range(2):
            graph.replay()
            norms.append([float(model[place].weight.grad.norm()) for place in (0, 2)])
            probe.step()
    assert not (probe.run.coverage["code"] == "error").any()
    if every == 1:
        np.testing.assert_allclose(probe.run.frame("weight_grad_norm").loc[1:], norms, rtol=1e-6)
        assert probe.run.frame("output_rms").empty
