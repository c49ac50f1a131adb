"""The demonstration: what it must show on real data, and the words it finds for it."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import gradscope as gs
from gradscope.cli import demo
from gradscope.cli.arguments import values
from gradscope.lab.demo import SETTINGS, census, conclusion, summary
from gradscope.lab.sweep import sweep
from gradscope.lab.training import train
from gradscope.runs import Runs


def command() -> dict[str, Any]:
    """Defaults of ``gradscope demo``."""
    return {name: one.default for name, one in inspect.signature(demo).parameters.items()}


def grid() -> dict[str, list[Any]]:
    given = command()
    varied = {name: values(given[name], always_list=True) for name in ("depth", "activation", "init")}
    return {**varied, "seed": list(range(given["seeds"]))}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The grid of the demonstration at its first step."""
    settings = {**SETTINGS, "width": command()["width"], "steps": 1, "metrics": [("output_grad_norm",)]}
    return sweep(train, tmp_path_factory.mktemp("demo"), workers=1, progress=False, **grid(), **settings)


def test_it_spans_depths_2_to_32_in_three_seeds_a_cell(runs: Runs) -> None:
    table = runs.table()
    assert len(table) == math.prod(map(len, grid().values())) == 162
    assert (table["depth"].min(), table["depth"].max(), table["seed"].nunique()) == (2, 32, 3)
    assert set(table["status"]) == {"finished"}


def test_every_deep_sigmoid_network_loses_its_gradient(runs: Runs) -> None:
    deep = [run for run in runs.select(activation="sigmoid") if run.config["depth"] >= 8]
    assert len(deep) == 36
    assert all(run.decay(step=0).high < 1 for run in deep)
    assert all("vanishing" in gs.diagnose(run).codes for run in deep)


def test_sigmoid_with_xavier_loses_what_theory_says(runs: Runs) -> None:
    rates = [run.decay().rate for run in runs.select(activation="sigmoid", init="xavier", depth=[16, 32])]
    assert sum(rates) / len(rates) == pytest.approx(0.235, abs=0.005)


def test_relu_with_kaiming_keeps_its_gradient(runs: Runs) -> None:
    kept = runs.select(activation="relu", init="kaiming")
    decays = [run.decay(step=0) for run in kept]
    assert sum(one.low <= 1 <= one.high for one in decays) >= 0.8 * len(decays)
    assert not any("vanishing" in gs.diagnose(run).codes for run in kept)


def test_the_summary_has_a_row_per_cell(runs: Runs) -> None:
    table = summary(runs)
    assert len(table) == 54
    assert set(table["runs"]) == {3}
    cell = table.set_index(["activation", "init", "depth"]).loc[("sigmoid", "xavier", 8)]
    decays = [run.decay() for run in runs.select(activation="sigmoid", init="xavier", depth=8)]
    assert cell["decay"] == sorted(one.rate for one in decays)[1]
    assert cell["decay_high"] == sorted(one.high for one in decays)[1]
    assert cell["verdict"] == "vanishing"
    assert set(table.loc[table["depth"] == 2, "verdict"]) == {"too shallow"}


def test_the_conclusion_names_the_worst_and_the_best_cell(runs: Runs) -> None:
    text = conclusion(summary(runs))
    assert text.startswith("At depth 32, sigmoid with default initialization multiplies the gradient by 0.14")
    assert "relu with kaiming initialization" in text
    assert text.endswith("keeps it.")
    assert census(summary(runs)).startswith("vanishing in ")


def test_runs_that_recorded_nothing_are_left_out(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"^1 of 1 runs failed; the first, 'depth=2': "):
        failing = sweep(train, tmp_path, workers=1, progress=False, depth=[2], activation="tanh", init="nought")
    assert [run.status for run in failing] == ["failed"]
    table = summary(failing)
    assert table.empty
    assert conclusion(table) == "No run finished, so nothing can be said."
    assert census(table) == "vanishing in none, exploding in none"


def test_a_gradient_that_is_exactly_zero_is_said_so() -> None:
    cells = pd.DataFrame(
        {
            "activation": ["sigmoid", "tanh"],
            "init": ["default", "xavier"],
            "depth": [60, 60],
            "decay": [0.0, 0.95],
            "decades": [-math.inf, -1.3],
            "verdict": ["vanishing", "vanishing"],
        }
    )
    assert conclusion(cells) == (
        "At depth 60, sigmoid with default initialization multiplies the gradient by 0.000 per layer, so that the"
        " first layer receives 0 of what the last hidden one does; tanh with xavier initialization, by 0.950,"
        " comes nearest to keeping it."
    )


def test_healthy_cells_are_said_to_be_so() -> None:
    cells = pd.DataFrame(
        {
            "activation": ["tanh"],
            "init": ["xavier"],
            "depth": [8],
            "decay": [0.95],
            "decades": [-0.2],
            "verdict": ["healthy"],
        }
    )
    assert conclusion(cells) == (
        "At depth 8 every cell keeps the gradient; tanh with xavier initialization, by 0.950 per layer, comes nearest"
        " to 1."
    )
