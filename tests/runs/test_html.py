"""What a notebook shows of runs."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
import torch
from torch import nn

import gradscope as gs
from gradscope.runs import Decay, Run, html


def trained(out: Path, depth: int = 5, steps: int = 3) -> Run:
    torch.manual_seed(0)
    model = nn.Sequential(*[layer for _ in range(depth) for layer in (nn.Linear(8, 8), nn.Tanh())], nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with gs.watch(model, optimizer, out=out, every=1, config={"depth": depth, "note": "<b>"}) as probe:
        for _ in range(steps):
            loss = nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.randint(3, (16,)))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            probe.log(loss=loss)
    return Run(out)


def parsed(text: str) -> ElementTree.Element:
    """Parse a fragment: what is no XML is no clean HTML either."""
    return ElementTree.fromstring(text.replace("&#9632;", "#"))


def test_a_run_shows_its_facts_and_both_ends_of_its_training(tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    root = parsed(run._repr_html_())
    facts = {row[0].text: row[1].text for row in root.iter("tr")}
    assert facts == {
        "status": "finished",
        "layers": "6",
        "config": "depth=5, note=<b>",
        "recorded steps": "3, from 0 to 2",
        "loss": f"{run.final('loss'):.4g}",
    }
    assert len([one for one in root.iter() if one.tag.endswith("polyline")]) == 2
    assert f"<b>{run.decay(0).rate:.3g}</b> per layer" in run._repr_html_()


def test_runs_show_their_table(tmp_path: Path) -> None:
    trained(tmp_path / "a", depth=1)
    trained(tmp_path / "b", depth=4)
    runs = gs.load(tmp_path)
    assert "2 runs in" in runs._repr_html_()
    rows = [[cell.text for cell in row] for row in parsed(runs._repr_html_()).iter("tr")]
    assert [row[0] for row in rows] == ["name", "a", "b"]


@pytest.mark.parametrize(
    ("decay", "text"),
    [
        (Decay(math.nan, math.nan, math.nan, math.nan, 0), "Decay: unknown, no layer was used"),
        (
            Decay(math.nan, math.nan, math.nan, math.nan, 4),
            "Decay: undefined over 4 layers (no norms, or norms that are zero or not finite)",
        ),
        (
            Decay(0.2361, 0.23, 0.2422, -4.39, 8),
            "Decay: the output gradient changes by <b>0.236</b> per layer (95 %: 0.23 to 0.242) towards the input, "
            "-4.39 decades over 8 layers",
        ),
        (
            Decay(0.5, math.nan, math.nan, -0.3, 2),
            "Decay: the output gradient changes by <b>0.5</b> per layer towards the input, -0.30 decades over 2 layers",
        ),
    ],
)
def test_a_decay_is_a_sentence(decay: Decay, text: str) -> None:
    assert decay._repr_html_() == f"<div>{text}</div>"


def test_what_has_no_logarithm_leaves_a_gap_in_the_picture() -> None:
    profile = pd.Series([1.0, 10.0, 0.0, math.nan, 100.0, 1000.0, math.inf, 5.0], index=range(1, 9))
    lines = [one for one in parsed(html.sparkline([(profile, "red")])).iter() if one.tag.endswith("polyline")]
    assert [len(one.attrib["points"].split()) for one in lines] == [2, 2, 2]
    assert html.sparkline([(pd.Series([0.0, math.nan], index=[1, 2]), "red")]) == ""


def test_the_decay_in_the_table_is_that_of_the_first_step_taken(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with gs.watch(model, optimizer, out=tmp_path / "runs" / "amp", every=1, scaler=scaler) as probe:
        for step in range(2):
            loss = model(torch.randn(8, 4)).square().mean() * (math.inf if step == 0 else 1.0)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            probe.log(loss=1.0)
    runs = gs.load(tmp_path / "runs")
    assert runs["amp"].skipped() == [0]
    assert runs.table()["decay"].tolist() == [runs["amp"].decay(1).rate]
