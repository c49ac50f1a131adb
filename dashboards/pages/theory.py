"""Theory: where the layers of a run lie between order and chaos, and how deep the runs of a sweep learn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Output, dcc, html, no_update
from dash.exceptions import PreventUpdate

from gradscope import figures
from gradscope.dashboards.blocks import choices, drawn, graph, howto, notice, scrolled, table_of, ticker
from gradscope.dashboards.callbacks import asked, lead_on, open_clicked, settled
from gradscope.dashboards.source import Source
from gradscope.dashboards.state import FlowState, TheoryState
from gradscope.dashboards.theory_numbers import numbers_frame
from gradscope.errors import GradscopeError
from gradscope.figures.phase_diagram import HEADING
from gradscope.figures.trainability import HEADING as MAP
from gradscope.figures.values import is_empty, recorded_steps
from gradscope.runs import Run
from gradscope.theory import ACTIVATIONS

PATH = TheoryState.PATH
OWN = "own"
RMS = "weight_rms"
CONTROLS = dict.fromkeys(("run", "activation", "at"), "value")


def layout() -> dmc.Stack:
    """Return the page, its figures still empty."""
    at = [{"value": "first", "label": "first step"}, {"value": "last", "label": "last step"}]
    controls = dmc.Group(
        [
            dmc.Select(id="theory-run", label="Run", data=[], searchable=True, allowDeselect=False, w=320),
            dmc.Select(
                id="theory-activation", label="Activation", data=activations(), value=OWN, allowDeselect=False, w=220
            ),
            dmc.Stack(
                [
                    dmc.Text("At the recorded step", size="sm", fw=500),
                    dmc.SegmentedControl(id="theory-at", data=at, value="first"),
                ],
                gap=2,
            ),
        ],
        align="flex-end",
    )
    grid = html.Div(
        [
            graph("theory-phases", "420px"),
            html.Div(id="theory-numbers"),
            html.Div(graph("theory-map", "480px"), id="theory-sweep", className="wide", hidden=True),
        ],
        className="grid",
    )
    body = [html.Div(id="theory-head"), controls, html.Div(grid, id="theory-body"), dcc.Store(id="theory-shown")]
    return dmc.Stack([*body, ticker("theory")], gap="sm")


def activations() -> list[dict[str, str]]:
    """Return the options of the activation: that of the run, and each that theory knows."""
    names = [name for name in ACTIVATIONS if name != "linear"]
    return [{"value": OWN, "label": "that of the run"}, *({"value": one, "label": one} for one in names)]


def answer(source: Source, state: TheoryState, theme: str) -> dict[str, Any]:
    """Return everything the page shows for a state, by output."""
    names = list(source.runs)
    page: dict[str, Any] = {"run_data": choices(names), "at": "last" if state.last else "first"}
    page |= {"activation": state.activation or OWN}
    if not names and state.run is None:
        return page | _nothing(howto(source.where))
    name = state.run or names[0]
    try:
        run = source.run(name)
    except GradscopeError as error:
        return page | _nothing(notice(str(error), title="This cannot be shown"))
    step = _step(run, state.last)
    return page | {
        "run": name,
        "phases": drawn(
            HEADING, theme, lambda: figures.phase_diagram(run, step, activation=state.activation, theme=theme)
        ),
        "numbers": _numbers(run, step, name),
        **_map(source, theme),
        "head": "",
        "hidden": False,
    }


def _nothing(told: Any) -> dict[str, Any]:
    untouched = dict.fromkeys(("run", "phases", "map", "no_map"), no_update)
    return untouched | {"numbers": "", "head": told, "hidden": True}


def _step(run: Run, last: bool) -> int | None:
    """Return the last step with weights, None for the first."""
    if not last or RMS not in run.metrics or is_empty(run, RMS):
        return None
    return int(recorded_steps(run, RMS)[-1])


def swept(source: Source) -> bool:
    """Tell whether the runs are a sweep over depth and weight variance."""
    frame = figures.trainability_frame(source.runs)
    known = frame[frame["value"].notna()]
    return bool(known["depth"].nunique() > 1 and known["weight_var"].nunique() > 1)


def _map(source: Source, theme: str) -> dict[str, Any]:
    if not swept(source):
        return {"map": no_update, "no_map": True}
    figure = drawn(MAP, theme, lambda: figures.trainability_map(source.runs, theme=theme))
    return {"map": figure, "no_map": False}


def _numbers(run: Run, step: int | None, name: str) -> dmc.Paper:
    """Return what theory says of the run beside what was measured, or why it says nothing."""
    title = dmc.Group(
        [
            dmc.Text("Theory and measurement", fw=600, size="sm"),
            dcc.Link("profile with theory", href=FlowState(name, step=step, theory=True).href(), className="run"),
        ],
        gap="sm",
    )
    try:
        content: Any = html.Div(table_of(numbers_frame(run, step)), className="numbers")
    except GradscopeError as error:
        content = dmc.Text(str(error), size="sm")
    stack = dmc.Stack([title, content], gap="xs")
    return dmc.Paper(scrolled("Theory and measurement", stack), withBorder=True, radius="md", className="findings")


def chosen(state: TheoryState, values: dict[str, Any], shown: dict[str, Any]) -> TheoryState:
    """Return the state after the user moved a control away from what is shown."""
    moved = {name: values[name] for name in CONTROLS if values[name] != shown.get(name)}
    if moved.get("run"):
        state = replace(state, run=moved["run"])
    if moved.get("activation"):
        state = replace(state, activation=None if moved["activation"] == OWN else moved["activation"])
    return replace(state, last=values["at"] == "last")


def outputs() -> dict[str, Output]:
    """Return what the page's callback fills."""
    return {
        "run_data": Output("theory-run", "data"),
        "run": Output("theory-run", "value"),
        "activation": Output("theory-activation", "value"),
        "at": Output("theory-at", "value"),
        "phases": Output("theory-phases", "figure"),
        "numbers": Output("theory-numbers", "children"),
        "map": Output("theory-map", "figure"),
        "no_map": Output("theory-sweep", "hidden"),
        "head": Output("theory-head", "children"),
        "hidden": Output("theory-body", "hidden"),
    }


def register(app: Dash, source: Source) -> None:
    """Connect the page to its runs."""

    @app.callback(
        output={**outputs(), "shown": Output("theory-shown", "data")},
        **asked("theory", CONTROLS),
    )
    def show(
        path: str | None,
        search: str | None,
        tick: int,
        theme: str,
        shown: dict[str, Any] | None,
        current: dict[str, Any],
    ) -> dict[str, Any]:
        if path != PATH:
            raise PreventUpdate
        state = TheoryState.parse(search)
        with source.lock:
            source.poll()
            key = f"{state.search()} {theme} {source.version()}"
            if shown and shown["key"] == key:
                raise PreventUpdate
            page = answer(source, state, theme)
        return settled(page, current, key)

    open_clicked(app, "theory")

    lead_on(app, "theory", CONTROLS, TheoryState.parse, chosen)
