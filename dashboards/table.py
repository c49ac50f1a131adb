"""Rows and columns of the table of runs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

from gradscope.dashboards.listed import given_to
from gradscope.dashboards.order import fixed, natural
from gradscope.dashboards.source import Source
from gradscope.dashboards.state import FlowState, RunsState
from gradscope.errors import GradscopeError, InvalidValueError, UnknownNameError
from gradscope.runs import Run

NUMERIC = {"filter": "agNumberColumnFilter", "type": "rightAligned"}
TEXTS = ("decay_text", "decades_text", "final_loss_text")
OWN = ("name", "given", "status", "decay", "decades", "final_loss", "error", "cause", "href", "place", *TEXTS)
"""Columns of the table itself: a key of a configuration that is called like one of them is told apart."""


def row(name: str, run: Run) -> dict[str, Any]:
    """Return the row of a run; of one whose parts cannot be read, a row that says so.

    Numbers are columns to sort by, their ``*_text`` what is shown: JSON has neither NaN nor infinity.
    """
    try:
        shown = {"name": name, "given": given_name(name, run), "status": run.status}
        shown |= {"error": run.error or "", "cause": cause(run.error or "")}
        return {**_config(run), **_results(run), **shown}
    except GradscopeError as error:
        return unreadable(name, str(error))


def given_name(name: str, run: Run) -> str:
    """Return the name that was given to a run where its folder is called otherwise."""
    given = given_to(run)
    return "" if given in (name, name.rsplit("/", 1)[-1]) else given


def cause(error: str) -> str:
    r"""Return the last line of a traceback: the cause.

    >>> cause("Traceback (most recent call last):\n  ...\nValueError: no data\n"), cause("")
    ('ValueError: no data', '')
    """
    return next((line.strip() for line in reversed(error.splitlines()) if line.strip()), "")


def unreadable(name: str, error: str) -> dict[str, Any]:
    """Return the row of a run that cannot be read."""
    return {"name": name, "status": "unreadable", "error": error, "cause": error}


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
    result: dict[str, Any] = {"final_loss": _sortable(loss), "final_loss_text": fixed(loss) if len(losses) else ""}
    try:
        decay = run.decay()
    except (UnknownNameError, InvalidValueError):
        # Nothing to take a decay of: no such metric, or no step yet. A part that cannot be read is no such case.
        return result
    between = f" [{fixed(decay.low)}, {fixed(decay.high)}]" if math.isfinite(decay.low) else ""
    return result | {
        "decay": _sortable(decay.rate),
        "decay_text": fixed(decay.rate) + between,
        "decades": _sortable(decay.decades),
        "decades_text": fixed(decay.decades),
    }


def _sortable(value: float) -> float | None:
    """Return a number that JSON can hold and that sorts as the value does."""
    if math.isnan(value):
        return None
    return math.copysign(1e300, value) if math.isinf(value) else value


def rows(source: Source) -> list[dict[str, Any]]:
    """Return the rows of all runs, those that cannot be read included, in the natural order of their names."""
    table = {name: source.kept("row", name, partial(row, name)) for name in source.runs}
    table |= {name: unreadable(name, error) for name, error in source.broken.items()}
    names = sorted(table, key=natural)
    return [{**table[name], "href": FlowState(name).href(), "place": place} for place, name in enumerate(names)]


def counted(table: list[dict[str, Any]], where: str) -> str:
    """Return how many runs there are, and how many of them cannot be read.

    >>> counted([{"status": "finished"}, {"status": "unreadable"}], "runs")
    '2 runs in runs, of which 1 cannot be read'
    """
    runs = "1 run" if len(table) == 1 else f"{len(table)} runs"
    broken = sum(one["status"] == "unreadable" for one in table)
    return f"{runs} in {where}" + (f", of which {broken} cannot be read" if broken else "")


def columns(table: Iterable[dict[str, Any]], state: RunsState) -> list[dict[str, Any]]:
    """Return the columns: the run, its errors if any and its results, then every key of the configurations."""
    listed = list(table)
    keys = list(dict.fromkeys(key for one in listed for key in one if key not in OWN))
    # What differs between the runs comes before what they share; of a run that cannot be read nothing is known.
    known = [one for one in listed if one["status"] != "unreadable"]
    keys.sort(key=lambda key: len({str(one.get(key)) for one in known}) == 1)
    given = [{"field": "given", "headerName": "Name given", "width": 160, "tooltipField": "given"}]
    # The head of a traceback is the same for all; the whole stands in the tooltip, and is what is searched.
    shown = {"function": "params.data.cause"}
    base = {"field": "error", "headerName": "Error", "width": 320, "tooltipField": "error"}
    errors = [base | {"valueFormatter": shown}]
    defs = [
        {
            "field": "name",
            "headerName": "Run",
            "cellRenderer": "RunLink",
            # With status and decay within a window of 760 pixels.
            "width": 290,
            "pinned": "left",
            "tooltipField": "name",
            "comparator": {"function": "byPlace"},
        },
        *(given if any(one.get("given") for one in listed) else []),
        {"field": "status", "headerName": "Status", "cellRenderer": "StatusBadge", "width": 125},
        *(errors if any(one.get("error") for one in listed) else []),
        _number(
            "decay",
            "Decay per layer (first step)",
            250,
            "factor per layer of |dL/dz| towards the input, with its 95 % interval",
        ),
        _number("decades", "Decades (first step)", 190, "log10 of the total, first layer to last hidden layer"),
        _number("final_loss", "Final loss", 115, "last value of the scalar 'loss'"),
        *(_config_column(key, listed) for key in keys),
    ]
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
