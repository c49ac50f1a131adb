"""The information page: figures at a step, the estimator on screen, numbers with intervals, and what to do without."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gradscope as gs
from gradscope.dashboards.information_view import numbers_frame, origins_frame, settle
from gradscope.dashboards.pages import information
from gradscope.dashboards.source import Source
from gradscope.dashboards.state import InformationState
from gradscope.dashboards.view import metric_choices


def train(folder: Path, steps: int = 7, **options: Any) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(80, 6), torch.arange(80) % 3
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    options = {"sample": (x, y), "information_every": 3} | options
    with gs.watch(model, optimizer, out=folder, every=2, **options) as probe:
        for _ in range(steps):
            loss = nn.functional.cross_entropy(model(x), y)
            torch.autograd.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            probe.log(loss=loss)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("information")
    train(root / "a-bare", sample=None)
    train(root / "both", metrics=["backward", "information"])
    train(root / "sampled")
    train(root / "unlabelled", sample=(torch.randn(80, 6), None))
    train(root / "rank", metrics=["backward", "effective_rank"])
    return root


@pytest.fixture
def source(runs: Path) -> Source:
    return Source(str(runs))


def subtitle(figure: Any) -> str:
    return str(figure.layout.title.subtitle.text)


def test_the_first_run_with_a_sample_is_shown_at_its_newest_step(source: Source) -> None:
    page = information.answer(source, InformationState(), "light")
    assert (page["run"], page["hidden"], page["step"], page["follow"]) == ("both", False, 6, True)
    assert (page["min"], page["max"], page["by"], page["step_text"]) == (0, 6, 3, "6 of 0 to 6")
    assert (page["estimator"], page["metric"]) == ("kde_bounds", "effective_rank")
    assert subtitle(page["profile"]) == "both, step 6; kde_bounds, samples = 80, rows = 80, noise_var = 0.1"
    assert subtitle(page["plane"]).startswith(
        "both; kde_bounds, samples = 80, rows = 80, noise_var = 0.1; steps 0 to 6"
    )
    assert page["heatmap"].layout.title.text == "Effective rank over depth and step"


def test_the_flow_page_offers_estimates_and_not_the_ends_of_their_intervals(source: Source) -> None:
    offered = {group["group"]: group["items"] for group in metric_choices(source.runs["sampled"])}
    names = [item["value"] for item in offered["Information"]]
    assert names == list(source.runs["sampled"].metrics)[-18::3]
    assert names[0] == "effective_rank"
    assert not any(name.endswith(("_low", "_high")) for name in names)


def test_step_estimator_and_metric_are_those_of_the_state(source: Source) -> None:
    state = InformationState("both", "binning", "cka_input", 3)
    page = information.answer(source, state, "dark")
    assert (page["step"], page["follow"], page["estimator"], page["metric"]) == (3, False, "binning", "cka_input")
    assert subtitle(page["profile"]) == "both, step 3; binning, samples = 80, bins = 30"
    assert page["heatmap"].layout.title.text == "CKA with the input over depth and step"
    assert [one["value"] for one in page["estimator_data"]] == ["kde_bounds", "binning"]
    near = information.answer(source, InformationState("both", step=4), "light")
    assert near["step"] == 3
    assert "step 4 has no value of effective_rank; the nearest ones that have are 3 and 6" in str(near["head"])


def test_every_number_has_its_interval_and_its_origin(source: Source) -> None:
    view = settle(source, InformationState("sampled", step=3))
    numbers = numbers_frame(view)
    run = view.run
    value, low, high = (float(run.profile(f"input_information{end}", 3)[2]) for end in ("", "_low", "_high"))
    assert numbers["layer"].tolist() == ["0", "2", "4"]
    assert numbers["Information about the input (nats)"][1] == f"{value:.2f} [{low:.3f},\N{NO-BREAK SPACE}{high:.2f}]"
    origins = origins_frame(view).set_index("metric")
    assert origins.loc["Information about the label"].tolist() == [
        "I(T + noise;Y), by the upper bounds",
        "kde_bounds",
        "samples = 80, spatial = pool, rows = 80, noise_var = 0.1",
        "lower and upper bound",
        "Kolchinsky and Tracey 2017",
    ]
    assert origins.loc["Effective rank", "interval"] == "95 %, by sampling"
    assert len(origins) == 6


def test_a_run_without_a_sample_says_how_to_give_one(source: Source) -> None:
    page = information.answer(source, InformationState("a-bare"), "light")
    assert (page["hidden"], page["run"], page["disabled"]) == (True, "a-bare", True)
    told = str(page["head"])
    assert "it was watched without a sample" in told
    assert "sample=(x_val, y_val), information_every=100" in told


def test_without_labels_the_input_alone_is_drawn(source: Source) -> None:
    page = information.answer(source, InformationState("unlabelled"), "light")
    names = [trace.name for trace in page["profile"].data if trace.showlegend is not False]
    assert names == ["Information about the input"]
    text = page["plane"].layout.annotations[0].text.replace("<br>", " ")
    assert text == "'label_information' was not measured: the sample has no labels"


def test_where_neither_estimator_was_recorded_the_rest_is_shown(source: Source) -> None:
    page = information.answer(source, InformationState("rank"), "light")
    assert (page["hidden"], page["estimator"], page["metric"]) == (False, None, "effective_rank")
    for name in ("profile", "plane"):
        text = page[name].layout.annotations[0].text.replace("<br>", " ")
        assert text == "none of input_information, input_information_binned was recorded"


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (InformationState("nobody"), "no run 'nobody'"),
        (InformationState("sampled", "binning"), "no estimator 'binning'; there are: kde_bounds"),
        (InformationState("sampled", metric="loss"), "no metric of information 'loss'; there are: effective_rank, "),
    ],
)
def test_what_does_not_exist_is_named(state: InformationState, message: str, source: Source) -> None:
    page = information.answer(source, state, "light")
    assert page["hidden"]
    assert message in str(page["head"])


def test_an_empty_folder_says_how_runs_come_about(tmp_path: Path) -> None:
    page = information.answer(Source(str(tmp_path)), InformationState(), "light")
    assert page["hidden"]
    assert "No runs yet" in str(page["head"])


@pytest.mark.parametrize(
    ("moved", "wanted"),
    [
        ({"run": "b"}, InformationState("b")),
        ({"estimator": "binning"}, InformationState("a", "binning", "cka_input", 3)),
        ({"metric": "effective_rank"}, InformationState("a", "kde_bounds", "effective_rank", 3)),
        ({"step": 6}, InformationState("a", "kde_bounds", "cka_input", 6)),
        ({"follow": True}, InformationState("a", "kde_bounds", "cka_input")),
        ({}, InformationState("a", "kde_bounds", "cka_input", 3)),
    ],
)
def test_a_moved_control_changes_the_state(moved: Mapping[str, Any], wanted: InformationState) -> None:
    shown = {"run": "a", "estimator": "kde_bounds", "metric": "cka_input", "step": 3, "follow": False}
    state = InformationState("a", "kde_bounds", "cka_input", 3)
    assert information.chosen(state, shown | moved, shown) == wanted


def test_a_deep_network_has_a_table_of_some_layers(tmp_path: Path) -> None:
    model = gs.lab.mlp(depth=250, activation="relu", init="kaiming", width=4, seed=0)
    x = torch.rand(20, 64)
    with gs.watch(model, out=tmp_path / "deep", metrics=["backward", "effective_rank"], sample=(x, None)) as probe:
        model(x).sum().backward()
        probe.step()
    page = information.answer(Source(str(tmp_path)), InformationState(), "light")
    assert "(200 of 251 layers)" in str(page["numbers"])


def test_a_number_that_is_not_there_is_explained(tmp_path: Path, source: Source) -> None:
    """Twelve sigmoid layers hand on rounding in the end: no rank, and the page says why."""
    torch.manual_seed(0)
    layers = [one for width in (6, *[32] * 11) for one in (nn.Linear(width, 32), nn.Sigmoid())]
    model, x = nn.Sequential(*layers, nn.Linear(32, 3)), torch.randn(80, 6)
    with gs.watch(model, out=tmp_path / "deep", sample=(x, None)) as probe:
        model(x).sum().backward()
        probe.step()
    deep = Source(str(tmp_path))
    frame = numbers_frame(settle(deep, InformationState()))
    assert frame["Effective rank"].iloc[0] != "–"
    assert frame["Effective rank"].iloc[-1] == "–"
    assert frame["Information about the input (nats)"].iloc[-1] != "–"
    told = "the layer is not finite, or constant but for rounding"
    assert told in str(information.answer(deep, InformationState(), "light")["numbers"])
    assert told not in str(information.answer(source, InformationState("both"), "light")["numbers"])
