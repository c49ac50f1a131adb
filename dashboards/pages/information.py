"""Information: what the layers of a run tell of a fixed sample, with the estimator that says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dash_mantine_components as dmc
import numpy as np
import pandas as pd
from dash import Dash, Output, dcc, html, no_update
from dash.exceptions import PreventUpdate

from gradscope import figures
from gradscope.dashboards.blocks import badge, choices, drawn, graph, howto, notice, scrolled, table_of, ticker
from gradscope.dashboards.callbacks import asked, lead_on, settled
from gradscope.dashboards.information_view import NOT_THERE, PAIRS, View, numbers_frame, origins_frame, sampled, settle
from gradscope.dashboards.source import Source
from gradscope.dashboards.state import InformationState
from gradscope.errors import GradscopeError
from gradscope.figures import wording
from gradscope.figures.decimate import spread

PATH = InformationState.PATH
CONTROLS = dict.fromkeys(("run", "estimator", "metric", "step"), "value") | {"follow": "checked"}
GRAPHS = ("profile", "plane", "heatmap")
MOST_ROWS = 200
GAP = f"{NOT_THERE}: no number, for the layer is not finite, or constant but for rounding, or not measured"
CODE = (
    'with gs.watch(model, optimizer, out="runs/mine", sample=(x_val, y_val), information_every=100) as probe:\n    ...'
)


def layout() -> dmc.Stack:
    """Return the page, its figures still empty."""
    head = dmc.Group(
        [
            dmc.Text("Step", size="sm", fw=500),
            dmc.Text("", id="information-step-text", size="sm"),
            dmc.Switch(id="information-follow", label="newest", size="xs", checked=True),
        ],
        gap="sm",
    )
    slider = dmc.Slider(id="information-step", value=0, min=0, max=1, step=1, updatemode="mouseup", mt=10)
    controls = dmc.Group(
        [
            dmc.Select(id="information-run", label="Run", data=[], searchable=True, allowDeselect=False, w=320),
            dmc.Select(id="information-estimator", label="Estimator", data=[], allowDeselect=False, w=200),
            dmc.Select(id="information-metric", label="Over depth and step", data=[], allowDeselect=False, w=280),
            html.Div([head, slider], className="step"),
        ],
        align="flex-start",
        gap="md",
    )
    grid = html.Div(
        [
            graph("information-profile", "420px"),
            graph("information-plane", "420px"),
            html.Div(graph("information-heatmap"), className="wide"),
            html.Div(id="information-numbers", className="wide"),
        ],
        className="grid",
    )
    body = [
        html.Div(id="information-head"),
        controls,
        html.Div(grid, id="information-body"),
        dcc.Store(id="information-shown"),
    ]
    return dmc.Stack([*body, ticker("information")], gap="sm")


def content(view: View, theme: str) -> dict[str, Any]:
    """Return figures and tables of a view."""
    run, metric = view.run, view.metric or ""
    pair = PAIRS.get(view.estimator or "")

    def profile() -> Any:
        if not view.pair:
            return figures.message("Information over depth", _unpaired(), theme)
        return figures.information_by_depth(run, view.step, view.pair, theme=theme)

    def plane() -> Any:
        if pair is None:
            return figures.message("Information plane", _unpaired(), theme)
        return figures.information_plane(run, *pair, theme=theme)

    label = wording.label(run.metrics[metric].label)
    return {
        "profile": drawn("Information over depth", theme, profile),
        "plane": drawn("Information plane", theme, plane),
        "heatmap": drawn(f"{label} over depth and step", theme, lambda: figures.heatmap(run, metric, theme=theme)),
        "numbers": _tables(view),
    }


def _unpaired() -> str:
    return f"none of {', '.join(x for x, _ in PAIRS.values())} was recorded"


def _tables(view: View) -> dmc.Paper:
    """Return all numbers of the step with their intervals, and how each came about."""
    frame = numbers_frame(view)
    shown = frame.iloc[spread(len(frame), MOST_ROWS)]
    step = f" at step {view.step:,}" if view.step is not None else ""
    some = f" ({len(shown)} of {len(frame):,} layers)" if len(shown) < len(frame) else ""
    stack = dmc.Stack(
        [
            dmc.Text(f"Numbers{step}, with their intervals{some}", fw=600),
            *_gaps(frame),
            scrolled("Numbers by layer", html.Div(table_of(shown), className="numbers still")),
            dmc.Text("How they came about", fw=600),
            scrolled("Origin of the numbers", html.Div(table_of(origins_frame(view)), className="numbers origins")),
        ],
        gap="xs",
    )
    return dmc.Paper(stack, withBorder=True, radius="md", className="tables")


def _gaps(frame: pd.DataFrame) -> list[dmc.Text]:
    """Say what a number that is not there means; nothing where all are."""
    return [dmc.Text(GAP, size="sm", c="dimmed", id="information-gaps")] if (frame == NOT_THERE).any(axis=None) else []


def controls(source: Source, view: View) -> dict[str, Any]:
    """Return the properties of the controls that show a view."""
    low, high = (int(view.steps[0]), int(view.steps[-1])) if len(view.steps) else (0, 1)
    estimators = [one for one, (x, _) in PAIRS.items() if x in view.known]
    return {
        "run_data": choices(list(source.runs)),
        "run": view.name,
        "estimator_data": choices(estimators),
        "estimator": view.estimator,
        "metric_data": [{"value": one, "label": view.run.metrics[one].label} for one in view.known],
        "metric": view.metric,
        "min": low,
        "max": max(high, low + 1),
        "by": int(np.diff(view.steps).min()) if len(view.steps) > 1 else 1,
        "disabled": len(view.steps) < 2,
        "step": view.step if view.step is not None else low,
        "step_text": f"{view.step} of {low} to {high}" if view.step is not None else "none measured",
        "follow": view.follow,
    }


def head(view: View) -> dmc.Stack:
    """Return what stands above the figures: name and status, and what to do where there is nothing to draw."""
    items: list[Any] = [dmc.Title(view.name, order=4, className="name"), badge(view.run.status)]
    if view.remark:
        items.append(dmc.Text(view.remark, size="sm", id="information-remark"))
    below: list[Any] = []
    if not sampled(view.run):
        below = [
            dmc.Text(
                "This run holds nothing on information: it was watched without a sample. Give one that stays the same, "
                "a few hundred inputs with their labels (or None), and it is measured while the model trains, without "
                "touching the training:"
            ),
            html.Pre(html.Code(CODE), className="code", tabIndex=0),
            dmc.Text("For a model at rest, gs.information_of(model, x, y) gives the same numbers."),
        ]
    elif not view.known:
        below = [dmc.Text("The sample has not been measured yet.")]
    return dmc.Stack([dmc.Group(items, gap="sm"), *below], gap="xs")


def answer(source: Source, state: InformationState, theme: str) -> dict[str, Any]:
    """Return everything the page shows for a state, by output."""
    if not source.runs and state.run is None:
        return _nothing(source, howto(source.where))
    try:
        view = settle(source, state)
    except GradscopeError as error:
        page = _nothing(source, notice(str(error), title="This cannot be shown"))
        return page | ({"run": state.run} if state.run in source.runs else {})
    page = {**_nothing(source, head(view)), **controls(source, view)}
    return page | (content(view, theme) | {"hidden": False} if view.known else {})


def _nothing(source: Source, told: Any) -> dict[str, Any]:
    untouched = dict.fromkeys(outputs(), no_update)
    return untouched | {"run_data": choices(list(source.runs)), "numbers": "", "head": told, "hidden": True}


def chosen(state: InformationState, values: dict[str, Any], shown: dict[str, Any]) -> InformationState:
    """Return the state after the user moved a control away from what is shown."""
    moved = {name: values[name] for name in CONTROLS if values[name] != shown.get(name)}
    if moved.get("run"):
        # Another run has other metrics.
        return InformationState(moved["run"])
    for name in ("estimator", "metric"):
        if moved.get(name):
            state = replace(state, **{name: moved[name]})
    if "step" in moved:
        return replace(state, step=int(moved["step"]))
    if "follow" in moved:
        return replace(state, step=None if moved["follow"] else int(values["step"]))
    return state


def outputs() -> dict[str, Output]:
    """Return what the page's callback fills."""
    return {
        "run_data": Output("information-run", "data"),
        "run": Output("information-run", "value"),
        "estimator_data": Output("information-estimator", "data"),
        "estimator": Output("information-estimator", "value"),
        "metric_data": Output("information-metric", "data"),
        "metric": Output("information-metric", "value"),
        "min": Output("information-step", "min"),
        "max": Output("information-step", "max"),
        "by": Output("information-step", "step"),
        "disabled": Output("information-step", "disabled"),
        "step": Output("information-step", "value"),
        "step_text": Output("information-step-text", "children"),
        "follow": Output("information-follow", "checked"),
        **{name: Output(f"information-{name}", "figure") for name in GRAPHS},
        "numbers": Output("information-numbers", "children"),
        "head": Output("information-head", "children"),
        "hidden": Output("information-body", "hidden"),
    }


def register(app: Dash, source: Source) -> None:
    """Connect the page to its runs."""

    @app.callback(
        output={**outputs(), "shown": Output("information-shown", "data")},
        **asked("information", CONTROLS),
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
        state = InformationState.parse(search)
        with source.lock:
            source.poll([state.run] if state.run in source.runs else None)
            known = source.version([state.run]) if state.run in source.runs else source.version()
            key = f"{state.search()} {theme} {known} {len(source.runs)}"
            if shown and shown["key"] == key:
                raise PreventUpdate
            page = answer(source, state, theme)
        return settled(page, current, key)

    lead_on(app, "information", CONTROLS, InformationState.parse, chosen)
