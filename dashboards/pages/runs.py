"""The table of runs: configuration, decay, status, loss; select some to compare them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import dash_ag_grid as dag
import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html, no_update
from dash.exceptions import PreventUpdate

from gradscope.dashboards.blocks import howto, ticker
from gradscope.dashboards.callbacks import asked
from gradscope.dashboards.source import Source
from gradscope.dashboards.state import FlowState, RunsState
from gradscope.dashboards.table import columns, counted, rows

PATH = RunsState.PATH
GONE: dict[str, str] = {"display": "none"}


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
            # A link cannot be disabled: with nothing to compare a hint stands in its place.
            dcc.Link("Compare selected", id="runs-compare", href=FlowState.PATH, className="button", style=GONE),
            dmc.Text("Tick runs to compare them", id="runs-none", size="sm", c="dimmed"),
        ],
        justify="space-between",
        mb=8,
    )
    body = html.Div([bar, grid], id="runs-body")
    return dmc.Stack([html.Div(id="runs-empty"), body, dcc.Store(id="runs-shown"), ticker("runs")], gap="sm")


def answer(source: Source, state: RunsState, named: list[str] | None) -> dict[str, Any]:
    """Return what the page shows; ``named`` are the columns already there, with their sorting."""
    table = rows(source)
    defs = columns(table, state)
    fields = [f"{one['field']} {one['sort']}" for one in defs]
    empty = not table
    return {
        # New definitions would undo what the user did to the columns.
        "columns": no_update if named == fields else defs,
        "fields": fields,
        "rows": table,
        "count": counted(table, source.where),
        "empty": howto(source.where) if empty else "",
        "hidden": empty,
    }


def compare_href(names: Iterable[str]) -> str:
    """Return the link to the gradient flow of the selected runs.

    >>> compare_href(["a", "b"]), compare_href([])
    ('/flow?run=a&compare=b', '/flow')
    """
    listed = list(names)
    return FlowState(next(iter(listed), None), tuple(listed[1:])).href()


def sorted_by(state: RunsState, column_state: list[dict[str, Any]] | None) -> RunsState:
    """Return the state with the sorting that the grid reports."""
    by = [one for one in column_state or [] if one.get("sort")]
    if not by:
        return replace(state, sort=None, descending=False)
    return replace(state, sort=by[0]["colId"], descending=by[0]["sort"] == "desc")


def _names(fields: list[str] | None) -> list[str]:
    return [one.rsplit(" ", 1)[0] for one in fields or []]


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
            "link": Output("runs-compare", "style"),
            "hint": Output("runs-none", "style"),
            "shown": Output("runs-shown", "data"),
        },
        **asked("runs", theme=False, order=State("runs-grid", "columnState")),
    )
    def show(
        path: str | None,
        search: str | None,
        tick: int,
        shown: dict[str, Any] | None,
        order: list[dict[str, Any]] | None,
    ) -> dict[str, Any]:
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
        if order and _names(page["fields"]) == _names(old.get("fields")) and sorted_by(state, order) == state:
            # Sorted so already: while the answer travels, somebody may be sorting otherwise.
            page["columns"] = no_update
        remembered = {
            "version": version,
            "search": state.search(),
            "fields": page.pop("fields"),
            "compare": state.compare,
        }
        link, hint = ({}, GONE) if state.compare else (GONE, {})
        return page | {"compare": compare_href(state.compare), "link": link, "hint": hint, "shown": remembered}

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
        return wanted.href()
