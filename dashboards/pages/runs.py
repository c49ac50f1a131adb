"""The table of runs: configuration, decay, status, loss; select some to compare them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import dash_ag_grid as dag
import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html, no_update
from dash.exceptions import PreventUpdate

from gradscope.dashboards.blocks import howto, ticker
from gradscope.dashboards.pages import flow
from gradscope.dashboards.source import Source
from gradscope.dashboards.state import FlowState, RunsState
from gradscope.errors import GradscopeError, InvalidValueError, UnknownNameError
from gradscope.figures.style import number
from gradscope.runs import Run

PATH = "/"
NUMERIC = {"filter": "agNumberColumnFilter", "type": "rightAligned"}
OWN = ("name", "status", "decay", "decades", "final_loss", "error")


def layout() -> dmc.Stack:
    """Return the page, its table still empty."""
    grid = dag.AgGrid(
        id="runs-grid",
        columnDefs=[],
        rowData=[],
        getRowId="params.data.name",
        columnSize=None,
        dashGridOptions={
            "rowSelection": {"mode": "multiRow", "enableClickSelection": False},
            "animateRows": False,
            "tooltipShowDelay": 300,
            "selectionColumnDef": {"pinned": "left", "width": 48},
        },
        defaultColDef={"sortable": True, "resizable": True, "filter": True},
        style={"height": "calc(100vh - 170px)", "width": "100%"},
    )
    bar = dmc.Group(
        [
            dmc.Text("", id="runs-count", size="sm", c="dimmed"),
            dcc.Link("Compare selected", id="runs-compare", href=flow.PATH, className="button"),
        ],
        justify="space-between",
        mb=8,
    )
    body = html.Div([bar, grid], id="runs-body")
    return dmc.Stack([html.Div(id="runs-empty"), body, dcc.Store(id="runs-shown"), ticker("runs")], gap="sm")


def row(name: str, run: Run) -> dict[str, Any]:
    """Return the row of a run; of one whose parts cannot be read, a row that says so.

    Numbers are columns to sort by, their ``*_text`` what is shown: JSON has neither NaN nor infinity.
    """
    try:
        return {**_config(run), **_results(run), "name": name, "status": run.status, "error": run.error or ""}
    except GradscopeError as error:
        return unreadable(name, str(error))


def unreadable(name: str, error: str) -> dict[str, Any]:
    """Return the row of a run that cannot be read."""
    return {"name": name, "status": "unreadable", "error": error}


def _config(run: Run) -> dict[str, Any]:
    """Return the configuration by column; a key like one of the table's own columns is told apart."""
    return {
        (f"config.{key}" if key in OWN else key): value
        if isinstance(value, int | float | str) and not isinstance(value, bool)
        else str(value)
        for key, value in run.config.items()
    }


def _results(run: Run) -> dict[str, Any]:
    losses = run.scalars.query("name == 'loss'")["value"]
    loss = float(losses.iloc[-1]) if len(losses) else math.nan
    result: dict[str, Any] = {"final_loss": _sortable(loss), "final_loss_text": number(loss) if len(losses) else ""}
    try:
        decay = run.decay()
    except (UnknownNameError, InvalidValueError):
        # Nothing to take a decay of: no such metric, or no step yet. A part that cannot be read is no such case.
        return result
    between = f" [{number(decay.low)}, {number(decay.high)}]" if math.isfinite(decay.low) else ""
    return result | {
        "decay": _sortable(decay.rate),
        "decay_text": number(decay.rate) + between,
        "decades": _sortable(decay.decades),
        "decades_text": number(decay.decades),
    }


def _sortable(value: float) -> float | None:
    """Return a number that JSON can hold and that sorts as the value does."""
    if math.isnan(value):
        return None
    return math.copysign(1e300, value) if math.isinf(value) else value


def rows(source: Source) -> list[dict[str, Any]]:
    """Return the rows of all runs, those that cannot be read included, in order of name."""
    table = {name: source.kept("row", name, partial(row, name)) for name in source.runs}
    table |= {name: unreadable(name, error) for name, error in source.broken.items()}
    return [{**table[name], "href": flow.PATH + FlowState(name).search()} for name in sorted(table)]


def columns(table: Iterable[dict[str, Any]], state: RunsState) -> list[dict[str, Any]]:
    """Return the columns: the run and its results first, then every key of the configurations, errors if any."""
    listed = list(table)
    hidden = {"href", "decay_text", "decades_text", "final_loss_text", *OWN}
    keys = list(dict.fromkeys(key for one in listed for key in one if key not in hidden))
    # What differs between the runs comes before what they share.
    keys.sort(key=lambda key: len({str(one.get(key)) for one in listed}) == 1)
    defs = [
        {
            "field": "name",
            "headerName": "Run",
            "cellRenderer": "RunLink",
            "width": 320,
            "pinned": "left",
            "tooltipField": "name",
        },
        {"field": "status", "headerName": "Status", "cellRenderer": "StatusBadge", "width": 125},
        _number(
            "decay", "Decay per layer", 210, "factor per layer of |dL/dz| towards the input, with its 95 % interval"
        ),
        _number("decades", "Decades", 115, "log10 of the total, first layer to last hidden layer"),
        _number("final_loss", "Final loss", 115, "last value of the scalar 'loss'"),
        *(_config_column(key, listed) for key in keys),
    ]
    if any(one.get("error") for one in listed):
        defs.append({"field": "error", "headerName": "Error", "minWidth": 320, "flex": 2, "tooltipField": "error"})
    order = "desc" if state.descending else "asc"
    return [{**one, "sort": order if one["field"] == state.sort else None} for one in defs]


def _number(field: str, head: str, width: int, tip: str) -> dict[str, Any]:
    shown = {"function": f"params.data.{field}_text"}
    return {
        "field": field,
        "headerName": head,
        "width": width,
        "headerTooltip": tip,
        "valueFormatter": shown,
        **NUMERIC,
    }


def _config_column(key: str, table: list[dict[str, Any]]) -> dict[str, Any]:
    numeric = all(isinstance(one.get(key, 0), int | float) for one in table)
    # A dot in a field would be read as a path into the row.
    value = {"function": f"params.data[{key!r}]"}
    base = {"field": key.replace(".", "·"), "headerName": key, "valueGetter": value, "width": 120, "minWidth": 90}
    return base | (NUMERIC if numeric else {})


def answer(source: Source, state: RunsState, named: list[str] | None) -> dict[str, Any]:
    """Return what the page shows; ``named`` are the columns already there, with their sorting."""
    table = rows(source)
    defs = columns(table, state)
    fields = [f"{one['field']} {one['sort']}" for one in defs]
    empty = not table
    count = f"{len(table)} run{'s' if len(table) != 1 else ''} in {source.where}"
    return {
        # New definitions would undo what the user did to the columns.
        "columns": no_update if named == fields else defs,
        "fields": fields,
        "rows": table,
        "count": count,
        "empty": howto(source.where) if empty else "",
        "hidden": empty,
    }


def compare_href(names: Iterable[str]) -> str:
    """Return the link to the gradient flow of the selected runs.

    >>> compare_href(["a", "b"]), compare_href([])
    ('/flow?run=a&compare=b', '/flow')
    """
    listed = list(names)
    return flow.PATH + FlowState(next(iter(listed), None), tuple(listed[1:])).search()


def sorted_by(state: RunsState, column_state: list[dict[str, Any]] | None) -> RunsState:
    """Return the state with the sorting that the grid reports."""
    by = [one for one in column_state or [] if one.get("sort")]
    if not by:
        return replace(state, sort=None, descending=False)
    return replace(state, sort=by[0]["colId"], descending=by[0]["sort"] == "desc")


def register(app: Dash, source: Source) -> None:
    """Connect the page to its runs."""

    @app.callback(
        output={
            "columns": Output("runs-grid", "columnDefs"),
            "rows": Output("runs-grid", "rowData"),
            "count": Output("runs-count", "children"),
            "empty": Output("runs-empty", "children"),
            "hidden": Output("runs-body", "hidden"),
            "compare": Output("runs-compare", "href"),
            "shown": Output("runs-shown", "data"),
        },
        inputs={
            "path": Input("url", "pathname"),
            "search": Input("url", "search"),
            "tick": Input("runs-tick", "n_intervals"),
            "shown": State("runs-shown", "data"),
        },
        running=[(Output("runs-tick", "disabled"), True, False)],
    )
    def show(path: str | None, search: str | None, tick: int, shown: dict[str, Any] | None) -> dict[str, Any]:
        if path != PATH:
            raise PreventUpdate
        state, old = RunsState.parse(search), shown or {}
        with source.lock:
            source.poll()
            version = source.version()
            if old.get("version") == version and old.get("search") == state.search():
                raise PreventUpdate
            page = answer(source, state, old.get("fields"))
        if old.get("version") == version:
            # The same rows again would make the grid forget a selection made in the meantime.
            page["rows"] = no_update
        remembered = {
            "version": version,
            "search": state.search(),
            "fields": page.pop("fields"),
            "compare": state.compare,
        }
        return page | {"compare": compare_href(state.compare), "shown": remembered}

    in_browser: Any = app.clientside_callback
    in_browser(
        ClientsideFunction("gradscope", "select"),
        Output("runs-grid", "selectedRows"),
        Input("runs-shown", "data"),
        prevent_initial_call=True,
    )

    @app.callback(
        Output("runs-go", "data"),
        Input("runs-grid", "selectedRows"),
        Input("runs-grid", "columnState"),
        State("url", "pathname"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    def choose(selected: Any, column_state: list[dict[str, Any]] | None, path: str, search: str) -> str:
        if path != PATH:
            raise PreventUpdate
        state = RunsState.parse(search)
        wanted = sorted_by(state, column_state) if column_state else state
        if isinstance(selected, list):
            wanted = replace(wanted, compare=tuple(sorted(one["name"] for one in selected)))
        if wanted == state:
            raise PreventUpdate
        return PATH + wanted.search()
