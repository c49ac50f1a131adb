"""A metric of information over the runs of a sweep."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import gradscope as gs
from gradscope import figures
from gradscope.errors import UnknownNameError


def train(out: Path, depth: int, init: str, sampled: bool = True) -> None:
    digits = gs.lab.data.load("digits")
    x, y = digits.x_train[:128], digits.y_train[:128]
    model = gs.lab.mlp(depth=depth, activation="sigmoid", init=init, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    config = {"depth": depth, "init": init}
    sample = (x, y) if sampled else None
    with gs.watch(model, optimizer, out=out, every=2, sample=sample, information_every=2, config=config) as probe:
        for _ in range(3):
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            probe.log(loss=loss)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> gs.Runs:
    folder = tmp_path_factory.mktemp("sweep")
    for depth, init in ((2, "xavier"), (5, "xavier"), (5, "kaiming")):
        train(folder / f"depth={depth},init={init}", depth, init)
    train(folder / "unsampled", 2, "xavier", sampled=False)
    found = gs.load(folder)
    assert isinstance(found, gs.Runs)
    return found


def test_every_run_is_a_line_of_what_it_recorded(runs: gs.Runs) -> None:
    frame = figures.information_sweep_frame(runs, step=2)
    assert frame.groupby("run")["depth"].max().to_dict() == {
        "depth=2,init=xavier": 3,
        "depth=5,init=kaiming": 6,
        "depth=5,init=xavier": 6,
    }
    for name in frame["run"].unique():
        rows = frame[frame["run"] == name]
        assert rows["value"].tolist() == runs[name].profile("input_information", 2).tolist()
        assert rows["low"].tolist() == runs[name].profile("input_information_low", 2).tolist()
        assert rows["relative"].iloc[-1] == 1.0
    figure = figures.information_sweep(runs)
    assert len(figure.data) == 3
    assert figure.layout.title.subtitle.text.startswith("3 of 4 runs, step 0; kde_bounds, samples = 128")


def test_a_larger_weight_variance_keeps_more_of_the_input(runs: gs.Runs) -> None:
    frame = figures.information_sweep_frame(runs).set_index(["run", "depth"])["value"]
    assert frame["depth=5,init=kaiming", 4] > 2 * frame["depth=5,init=xavier", 4]


def test_depths_can_be_laid_on_each_other(runs: gs.Runs) -> None:
    figure = figures.information_sweep(runs, "effective_rank", relative=True)
    assert {max(trace.x) for trace in figure.data} == {1.0}
    assert figure.layout.yaxis.title.text == "Effective rank"


def test_unknown_metrics_and_runs_without_a_sample_are_named(runs: gs.Runs) -> None:
    with pytest.raises(UnknownNameError, match=r"^no information metric 'label_accuracy'; there are: cka_input, "):
        figures.information_sweep_frame(runs, "label_accuracy")
    text = figures.information_sweep(runs["unsampled"]).layout.annotations[0].text.replace("<br>", " ")
    assert text == "these runs hold no information metrics: watch with sample=(x, y)"
