"""Findings on the page: how grave, where, why, what to do, and the numbers behind them; layers they mark in figures."""

import json
from pathlib import Path
from typing import Any

import dash_mantine_components as dmc
import pytest
import synthetic_runs
from dash import dcc, html
from dash.development.base_component import Component

from gradscope import figures
from gradscope.checks import diagnose
from gradscope.dashboards.diagnosis import findings_panel
from gradscope.dashboards.highlight import marked
from gradscope.dashboards.pages import flow
from gradscope.dashboards.source import Source
from gradscope.dashboards.state import FlowState
from gradscope.runs import Run


@pytest.fixture(scope="module")
def sick(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path: Path = tmp_path_factory.mktemp("sick") / "sick"
    synthetic_runs.write(path, depth=12, rate=0.1)
    return synthetic_runs.open_run(path)


def parts(component: Any, kind: type[Component]) -> list[Any]:
    """Return all components of a kind inside one."""
    return [one for one in component._traverse() if isinstance(one, kind)]


def words(component: Component) -> str:
    return json.dumps(component.to_plotly_json(), default=lambda one: one.to_plotly_json(), ensure_ascii=False)


def test_a_finding_says_how_grave_why_and_what_to_do(sick: Run) -> None:
    panel = findings_panel(sick, "folder/sick")
    badges = [badge.children for badge in parts(panel, dmc.Badge)]
    assert badges == [one.severity for one in diagnose(sick)]
    text = words(panel)
    assert "The gradient vanishes towards the input [vanishing]" in text
    assert "Remedy: " in text
    assert "Source: " in text


def test_a_finding_links_to_its_layers_and_steps(sick: Run) -> None:
    # One finding of several: others have the same last step.
    cards = parts(findings_panel(sick, "folder/sick"), dmc.Alert)
    (card,) = [one for one in cards if "[vanishing]" in words(one)]
    links = {link.children: link.href for link in parts(card, dcc.Link)}
    assert links["layers 1 to 12"] == FlowState("folder/sick", step=0, layers=(1, 12)).href()
    assert links["first step 0"] == FlowState("folder/sick", step=0, layers=(1, 12)).href()
    assert links["last step 190"] == FlowState("folder/sick", step=190, layers=(1, 12)).href()


def test_evidence_by_layer_unfolds(sick: Run) -> None:
    panel = findings_panel(sick, "sick")
    (finding,) = [one for one in parts(panel, html.Details) if "vanishing" in words(one)]
    assert parts(finding, html.Summary)[0].children == "Evidence by layer"
    (table,) = parts(finding, html.Table)
    assert parts(table, html.Th)[0].children == "Depth"
    assert len(parts(table, html.Tr)) == 13


def test_marked_layers_are_shaded(sick: Run) -> None:
    profile = marked(figures.gradient_flow(sick), "profile", (2, 5), "light")
    (shape,) = profile.layout.shapes
    assert (shape.x0, shape.x1, shape.yref) == (1.5, 5.5, "paper")
    (frame,) = marked(figures.heatmap(sick), "heatmap", (2, 5), "dark").layout.shapes
    assert (frame.y0, frame.y1, frame.xref) == (1.5, 5.5, "paper")
    assert not marked(figures.loss(sick), "loss", (2, 5), "light").layout.shapes
    assert not marked(figures.gradient_flow(sick), "profile", None, "light").layout.shapes


def test_the_page_says_which_layers_are_marked_and_how_to_clear_them(source: Source) -> None:
    page = flow.answer(source, FlowState("plain", step=10, layers=(2, 5)), "light")
    (clear,) = parts(page["head"], dcc.Link)
    assert clear.href == "/flow?run=plain&step=10"
    assert "layers 2 to 5 are marked" in words(page["head"])
    assert page["profile"].layout.shapes[0].x0 == 1.5


def test_theory_is_drawn_where_it_is_switched_on(source: Source) -> None:
    page = flow.answer(source, FlowState("plain", theory=True), "light")
    assert page["theory"]
    text = page["profile"].layout.title.subtitle.text.replace("<br>", " ")
    assert "no theory: no metric 'weight_rms'" in text
    assert "theory" not in flow.answer(source, FlowState("plain"), "light")["profile"].layout.title.subtitle.text
