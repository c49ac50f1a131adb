"""The map of a sweep: decay over depth, initialization and activation; a click opens the run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Output, dcc, html
from dash.exceptions import PreventUpdate

from gradscope import figures
from gradscope.dashboards.blocks import choices, drawn, graph, howto, ticker
from gradscope.dashboards.callbacks import asked, lead_on, open_clicked, settled
from gradscope.dashboards.source import Source
from gradscope.dashboards.state import SweepState
from gradscope.errors import GradscopeError
from gradscope.figures.sweep_cells import axes_of, varying
from gradscope.runs import Run

PATH = SweepState.PATH
TALL = "max(420px, calc(100vh - 250px))"
NONE_LEFT = "no other key varies"
CLICK = "Click a cell to open the run behind it."
AXES = {"x": "Across", "y": "Up", "facet": "Small multiples"}
CONTROLS = dict.fromkeys((*AXES, "at"), "value")


def layout() -> dmc.Stack:
    """Return the page, its map still empty."""
    at = [{"value": "first", "label": "first step"}, {"value": "last", "label": "last step"}]
    controls = dmc.Group(
        [
            *(
                dmc.Select(id=f"sweep-{axis}", label=label, data=[], placeholder=NONE_LEFT, allowDeselect=False, w=220)
                for axis, label in AXES.items()
            ),
            dmc.Stack(
                [
                    dmc.Text("At the recorded step", size="sm", fw=500),
                    dmc.SegmentedControl(id="sweep-at", data=at, value="first"),
                ],
                gap=2,
            ),
        ],
        align="flex-end",
    )
    hint = dmc.Text(CLICK, size="sm", c="dimmed", id="sweep-hint")
    body = html.Div([controls, hint, graph("sweep-map", TALL)], id="sweep-body", className="stack")
    return dmc.Stack([html.Div(id="sweep-empty"), body, dcc.Store(id="sweep-shown"), ticker("sweep")], gap="sm")


def answer(source: Source, state: SweepState, theme: str) -> dict[str, Any]:
    """Return everything the page shows for a state, by output."""
    runs = list(source.runs.values())
    # A key without a name cannot be asked for in the address.
    keys = [key for key in varying(runs, aside=()) if key]
    try:
        axes = axes_of(runs, {"x": state.x, "y": state.y, "facet": state.facet})
    except GradscopeError:
        # The figure says what is wrong.
        axes = {"x": state.x, "y": state.y, "facet": state.facet}
    figure = drawn(
        "Decay over the sweep",
        theme,
        lambda: figures.sweep_map(source.runs, x=state.x, y=state.y, facet=state.facet, last=state.last, theme=theme),
    )
    return {
        "map": figure,
        "options": [choices(keys)] * len(AXES),
        **axes,
        "at": "last" if state.last else "first",
        "hint": hint(runs, [key for key in axes.values() if key]),
        "empty": _why_no_map(runs, keys, source.where),
        "hidden": not keys,
    }


def _why_no_map(runs: list[Run], keys: list[str], where: str) -> Any:
    """Say what to do where there is nothing to lay out; empty where there is."""
    if not runs:
        return howto(where)
    if keys:
        return ""
    if len(runs) == 1:
        return dmc.Text("There is one run that can be read; a map takes several, of different settings.", c="dimmed")
    same = f"No setting varies between these {len(runs)} runs, so there is no map:"
    return dmc.Text(f"{same} give gs.watch a config= that tells them apart.", c="dimmed")


def hint(runs: list[Run], keys: list[str]) -> str:
    """Return what to know of the map: what a click does, and what a dash stands for where there is one."""
    without = any(key not in run.config for run in runs for key in keys)
    return f"{CLICK} A dash (—) stands for runs whose configuration lacks the key." if without else CLICK


def chosen(state: SweepState, values: dict[str, Any], shown: dict[str, Any]) -> SweepState:
    """Return the state after the user moved a control away from what is shown."""
    moved = {axis: values[axis] for axis in AXES if values[axis] and values[axis] != shown.get(axis)}
    for axis, value in moved.items():
        # The key leaves the axis it was on, which takes over the one it replaces: no key stands on two.
        held = next((other for other in AXES if shown.get(other) == value), None)
        changes: dict[str, Any] = {axis: value} | ({held: shown.get(axis)} if held else {})
        state = replace(state, **changes)
    return replace(state, last=values["at"] == "last")


def register(app: Dash, source: Source) -> None:
    """Connect the page to its runs."""

    @app.callback(
        output={
            "map": Output("sweep-map", "figure"),
            "options": [Output(f"sweep-{axis}", "data") for axis in AXES],
            **{axis: Output(f"sweep-{axis}", "value") for axis in AXES},
            "at": Output("sweep-at", "value"),
            "hint": Output("sweep-hint", "children"),
            "empty": Output("sweep-empty", "children"),
            "hidden": Output("sweep-body", "hidden"),
            "shown": Output("sweep-shown", "data"),
        },
        **asked("sweep", CONTROLS),
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
        state = SweepState.parse(search)
        with source.lock:
            source.poll()
            key = f"{state.search()} {theme} {source.version()}"
            if shown and shown["key"] == key:
                raise PreventUpdate
            page = answer(source, state, theme)
        return settled(page, current, key)

    lead_on(app, "sweep", CONTROLS, SweepState.parse, chosen)
    open_clicked(app, "sweep")
