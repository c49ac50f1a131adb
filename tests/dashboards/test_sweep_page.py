"""The page of a sweep: its map, its axes, and what it says where there is none."""

from __future__ import annotations

from pathlib import Path

import synthetic_runs

from gradscope.dashboards.pages import sweep
from gradscope.dashboards.source import Source
from gradscope.dashboards.state import SweepState
from gradscope.runs import Writer


def test_the_sweep_page(source: Source) -> None:
    page = sweep.answer(source, SweepState(), "light")
    assert [page[axis] for axis in sweep.AXES] == ["depth", "init", "activation"]
    assert page["map"].data
    assert not page["hidden"]
    page = sweep.answer(source, SweepState(x="activation", last=True), "dark")
    assert [page[axis] for axis in sweep.AXES] == ["activation", "init", "depth"]
    assert page["at"] == "last"


def test_an_unknown_axis_is_said_in_the_figure(source: Source) -> None:
    page = sweep.answer(source, SweepState(x="width"), "light")
    assert "no configuration key 'width'" in page["map"].layout.annotations[0].text


def test_axes_change_places() -> None:
    shown = {"x": "depth", "y": "init", "facet": "activation", "at": "first"}
    values = shown | {"x": "init", "at": "last"}
    assert sweep.chosen(SweepState(), values, shown) == SweepState("init", "depth", None, True)


def test_the_map_says_what_a_dash_stands_for(tmp_path: Path) -> None:
    for name, config in (("a", {"lr": 1, "": 1}), ("b", {"lr": 2, "": 2}), ("c", {})):
        Writer(str(tmp_path / name), metrics=synthetic_runs.METRICS, config=config).close()
    page = sweep.answer(Source(str(tmp_path)), SweepState(), "light")
    assert page["options"][0] == [{"value": "lr", "label": "lr"}]
    assert page["hint"].endswith("A dash (—) stands for runs whose configuration lacks the key.")


def test_runs_that_share_every_setting_make_no_map(tmp_path: Path) -> None:
    for name in "ab":
        Writer(str(tmp_path / name), metrics=synthetic_runs.METRICS, config={"depth": 4}).close()
    page = sweep.answer(Source(str(tmp_path)), SweepState(), "light")
    assert page["hidden"]
    assert page["empty"].children == (
        "No setting varies between these 2 runs, so there is no map: give gs.watch a config= that tells them apart."
    )
