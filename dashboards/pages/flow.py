"""Gradient flow: one run in detail, others beside it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import dash_mantine_components as dmc
import plotly.graph_objects as go
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html, no_update
from dash.exceptions import PreventUpdate

from gradscope import figures
from gradscope.dashboards.blocks import badge, choices, drawn, graph, howto, notice, patience, ticker, trace
from gradscope.dashboards.callbacks import asked, lead_on, settled
from gradscope.dashboards.diagnosis import findings_panel
from gradscope.dashboards.gaps import gaps_panel
from gradscope.dashboards.highlight import marked
from gradscope.dashboards.source import Source
from gradscope.dashboards.state import FlowState
from gradscope.dashboards.table import given_name
from gradscope.dashboards.view import MOST_COMPARED, View, chosen, controls, metric_choices, settle
from gradscope.dashboards.zoom import Zoom, magnified
from gradscope.errors import GradscopeError
from gradscope.figures import wording
from gradscope.figures.gradient_flow import SIGNAL
from gradscope.figures.values import is_empty, nearest_step
from gradscope.figures.window import Window

PATH = FlowState.PATH
GRAPHS = ("profile", "ledger", "waterfall", "heatmap", "timeline", "loss")
CONTROLS = dict.fromkeys(("run", "compare", "metric", "step"), "value") | dict.fromkeys(("follow", "theory"), "checked")


def layout() -> dmc.Stack:
    """Return the page, its figures still empty."""
    controls = dmc.Group(
        [
            dmc.Select(id="flow-run", label="Run", data=[], searchable=True, allowDeselect=False, w=320),
            dmc.MultiSelect(
                id="flow-compare",
                label="Compare with",
                data=[],
                searchable=True,
                clearable=True,
                maxValues=MOST_COMPARED,
                styles={"pillsList": {"maxHeight": 56, "overflowY": "auto"}},
                hidePickedOptions=True,
                w=320,
            ),
            dmc.Select(id="flow-metric", label="Metric", data=[], searchable=True, allowDeselect=False, w=280),
            html.Div(
                [
                    dmc.Group(
                        [
                            dmc.Text("Step", size="sm", fw=500),
                            dmc.Text("", id="flow-step-text", size="sm"),
                            dmc.Switch(id="flow-follow", label="newest", size="xs", checked=True),
                        ],
                        gap="sm",
                    ),
                    dmc.Slider(id="flow-step", value=0, min=0, max=1, step=1, updatemode="mouseup", mt=10),
                ],
                className="step",
            ),
            html.Div(
                [
                    dmc.Text("Overlay", size="sm", fw=500),
                    dmc.Switch(id="flow-theory", label="theory", size="xs", checked=False, mt=8),
                ]
            ),
        ],
        align="flex-start",
        gap="md",
    )
    grid = html.Div(
        [
            graph("flow-profile"),
            graph("flow-ledger"),
            graph("flow-waterfall"),
            graph("flow-heatmap"),
            graph("flow-timeline"),
            graph("flow-loss"),
            html.Div(id="flow-findings", className="wide"),
            html.Div(id="flow-gaps", className="wide"),
        ],
        className="grid",
    )
    body = [
        html.Div(id="flow-head"),
        controls,
        html.Div(grid, id="flow-body"),
        dcc.Store(id="flow-shown"),
        dcc.Store(id="flow-zoom"),
    ]
    return dmc.Stack([*body, ticker("flow")], gap="sm")


def content(view: View, theme: str, zoom: Zoom | None = None, only: Iterable[str] = GRAPHS) -> dict[str, Any]:
    """Return figures of a view, each in the detail of the part of it that is seen."""
    run, step, metric = view.run, view.step, view.metric
    runs = {view.name: run} | {name: one for name, one in view.others.items() if name not in view.without}
    # Plotly reads markup in titles.
    label = wording.label(run.metrics[metric].label if metric in run.metrics else metric)
    # A metric that is recorded more rarely than the output gradient has other steps than the ledger.
    at = nearest_step(run, step, SIGNAL) if SIGNAL in run.metrics and not is_empty(run, SIGNAL) else step

    def draw(name: str, window: Window) -> go.Figure:
        given: dict[str, Any] = {"theme": theme, "window": window}
        figure = {
            "profile": lambda: figures.gradient_flow(runs, step, metric, theory=view.theory, **given),
            "ledger": lambda: figures.ledger(run, at, **given),
            "waterfall": lambda: figures.waterfall(run, at, **given),
            "heatmap": lambda: figures.heatmap(run, metric, **given),
            "timeline": lambda: figures.timeline(run, metric, **given),
            "loss": lambda: figures.loss({view.name: run, **view.others}, **given),
        }
        return marked(figure[name](), name, view.layers, theme)

    titles = {
        "profile": f"{label} over depth",
        "ledger": "Ledger of the error signal",
        "waterfall": "Where the error signal goes",
        "heatmap": f"{label} over depth and step",
        "timeline": f"{label} over steps",
        "loss": "Loss over steps",
    }

    def panel(name: str) -> go.Figure:
        return drawn(titles[name], theme, lambda: magnified(lambda window: draw(name, window), name, zoom))

    return {name: panel(name) for name in only}


def head(view: View, state: FlowState) -> dmc.Stack:
    """Return what stands above the figures: the run's name, its status and what ended it."""
    items: list[Any] = [dmc.Title(view.name, order=4, className="name"), badge(view.run.status)]
    if given := given_name(view.name, view.run):
        items.append(dmc.Text(given, size="sm", c="dimmed", className="name"))
    if not view.run.metrics:
        items.append(dmc.Text("nothing was recorded", size="sm"))
    if view.remark:
        items.append(dmc.Text(view.remark, size="sm", id="flow-remark"))
    if view.layers:
        low, high = view.layers
        which = f"layer {low} is" if low == high else f"layers {low} to {high} are"
        unmark = dcc.Link("clear", href=replace(state, layers=None).href(), className="run")
        items.append(html.Div([f"{which} marked · ", unmark], id="flow-marked"))
    if view.without:
        text = f"without a value of this metric: {', '.join(view.without)}"
        items.append(dmc.Text(text, size="sm", c="dimmed"))
    if view.run.error:
        items.append(dmc.Text(view.run.error.strip().rsplit("\n", 1)[-1], size="sm", c="red", className="name"))
    below = [trace(view.run.error)] if view.run.error and "\n" in view.run.error.strip() else []
    return dmc.Stack([dmc.Group(items, gap="sm"), *below], gap="xs")


def nothing(source: Source, state: FlowState, error: GradscopeError | None) -> dict[str, Any]:
    """Return the page where there is nothing to show: no run at all, or not the one asked for."""
    if error is not None:
        told: Any = notice(str(error), title="This cannot be shown")
    elif source.broken:
        told = notice("No run in this folder can be read; the table of runs says why.")
    else:
        told = howto(source.where)
    untouched = dict.fromkeys(outputs(), no_update)
    names = list(source.runs)
    choice: dict[str, Any] = {"run_data": choices(names), "compare_data": choices(names)}
    if state.run in source.runs:
        # Its other metrics are a way out.
        choice |= {"run": state.run, "metric_data": metric_choices(source.runs[state.run])}
    return untouched | choice | {"findings": "", "gaps": "", "head": told, "hidden": True}


def answer(source: Source, state: FlowState, theme: str, zoom: Zoom | None = None) -> dict[str, Any]:
    """Return everything the page shows for a state, by output."""
    if not source.runs and state.run is None:
        return nothing(source, state, None)
    try:
        view = settle(source, state)
        shown = controls(source, view) | content(view, theme, zoom)
        shown |= {"head": head(view, state), "hidden": not view.run.metrics}
        shown["findings"] = source.kept("findings", view.name, lambda run: findings_panel(run, view.name))
        shown["gaps"] = source.kept("gaps", view.name, gaps_panel)
    except GradscopeError as error:
        return nothing(source, state, error)
    return shown


def closer(source: Source, state: FlowState, theme: str, zoom: Zoom, graphs: Iterable[str]) -> dict[str, Any]:
    """Return the figures whose seen part has changed, and nothing else."""
    untouched: dict[str, Any] = dict.fromkeys(outputs(), no_update)
    try:
        return untouched | content(settle(source, state), theme, zoom, graphs)
    except GradscopeError as error:
        return nothing(source, state, error)


def outputs() -> dict[str, Output]:
    """Return what the page's callback fills."""
    return {
        "run_data": Output("flow-run", "data"),
        "run": Output("flow-run", "value"),
        "compare_data": Output("flow-compare", "data"),
        "compare": Output("flow-compare", "value"),
        "metric_data": Output("flow-metric", "data"),
        "metric": Output("flow-metric", "value"),
        "min": Output("flow-step", "min"),
        "max": Output("flow-step", "max"),
        "by": Output("flow-step", "step"),
        "disabled": Output("flow-step", "disabled"),
        "step": Output("flow-step", "value"),
        "step_text": Output("flow-step-text", "children"),
        "follow": Output("flow-follow", "checked"),
        "theory": Output("flow-theory", "checked"),
        **{name: Output(f"flow-{name}", "figure") for name in GRAPHS},
        "findings": Output("flow-findings", "children"),
        "gaps": Output("flow-gaps", "children"),
        "head": Output("flow-head", "children"),
        "hidden": Output("flow-body", "hidden"),
    }


def register(app: Dash, source: Source) -> None:
    """Connect the page to its runs."""

    @app.callback(
        output={
            **outputs(),
            "shown": Output("flow-shown", "data"),
            "interval": Output("flow-tick", "interval"),
        },
        **asked("flow", CONTROLS, zoom=Input("flow-zoom", "data")),
    )
    def show(
        path: str | None,
        search: str | None,
        tick: int,
        theme: str,
        zoom: Zoom | None,
        shown: dict[str, Any] | None,
        current: dict[str, Any],
    ) -> dict[str, Any]:
        if path != PATH:
            raise PreventUpdate
        state = FlowState.parse(search)
        # Of this thread: what a page leaves to the training is computing, not waiting.
        began = time.thread_time()
        with source.lock:
            key = news(source, state, theme)
            if shown and shown["key"] == key:
                moved = [name for name in GRAPHS if _of(zoom, name) != _of(shown["zoom"], name)]
                if not moved:
                    raise PreventUpdate
                page = closer(source, state, theme, zoom or {}, moved)
                return page | {"shown": shown | {"zoom": zoom}, "interval": no_update}
            page = answer(source, state, theme, zoom)
        return settled(page, current, key, zoom=zoom) | {"interval": patience(time.thread_time() - began)}

    in_browser: Any = app.clientside_callback
    in_browser(
        ClientsideFunction("gradscope", "zoom"),
        Output("flow-zoom", "data"),
        *(Input(f"flow-{name}", "relayoutData") for name in GRAPHS),
        *(State(f"flow-{name}", "figure") for name in GRAPHS),
        State("flow-zoom", "data"),
        prevent_initial_call=True,
    )

    lead_on(app, "flow", CONTROLS, FlowState.parse, _after)


def _after(state: FlowState, values: dict[str, Any], shown: dict[str, Any]) -> FlowState:
    for name in CONTROLS:
        if values[name] != shown.get(name):
            state = chosen(state, name, values)
    return state


def _of(zoom: Mapping[str, Any] | None, name: str) -> Any:
    return (zoom or {}).get(name)


def news(source: Source, state: FlowState, theme: str) -> str:
    """Ask the runs of a state for news; return a word that changes when the page has to."""
    if state.run is None or state.run not in source.runs:
        source.poll()
    else:
        source.poll([state.run, *state.compare])
    names = [*([state.run] if state.run else list(source.runs)[:1]), *state.compare]
    return f"{state.search()} {theme} {source.version(names)} {len(source.runs)} {len(source.broken)}"
