"""What a run did not record, and what happened in it, as the page shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import dash_mantine_components as dmc
import pandas as pd
from dash import html

from gradscope.dashboards.blocks import scrolled, table_of
from gradscope.errors import GradscopeError
from gradscope.runs import Run
from gradscope.runs.coverage import TIERS, latest_coverage, tier_counts

RECORDED = "recorded"
MOST_LAYERS = 200
"""Layers that the panel lists; of more, it says how many there are."""
MOST_EVENTS = 200
"""Events that the panel lists, the newest first; of more, it says how many there are."""


def gaps(coverage: pd.DataFrame) -> pd.DataFrame:
    """Return the layers that were not wholly recorded when they were last looked at.

    Columns: layer, code, text, and before it, where the run knows, what was recorded all the same.
    """
    latest = latest_coverage(coverage)
    missing = latest[latest["code"] != RECORDED]
    known = [name for name in TIERS if missing[name].notna().any()]
    if known:
        missing = missing.assign(recorded=[_held(dict(zip(known, row, strict=True))) for row in missing[known].values])
    columns = ["layer", "code", "recorded", "text"] if known else ["layer", "code", "text"]
    return missing[columns].drop_duplicates(ignore_index=True)


def _held(tiers: Mapping[str, str]) -> str:
    whole = [name for name, held in tiers.items() if held == "yes"]
    part = [f"{name} in part" for name, held in tiers.items() if held == "part"]
    return ", ".join([*whole, *part]) or "nothing"


def gaps_panel(run: Run) -> dmc.Paper:
    """Return which layers were not wholly recorded, and why, beside the events of the run."""
    columns = [
        _readable("What was not recorded", lambda: _layers(run.coverage)),
        _readable("Events", lambda: _events(run.events)),
    ]
    return dmc.Paper(html.Div(columns, className="grid"), withBorder=True, radius="md", className="gaps")


def _readable(title: str, make: Callable[[], dmc.Stack]) -> dmc.Stack:
    """Return a column, or where its table cannot be read one that says why: the figures need neither."""
    try:
        return make()
    except GradscopeError as error:
        return _column(title, f"This cannot be read: {error}", None)


def _layers(coverage: pd.DataFrame) -> dmc.Stack:
    missing = gaps(coverage)
    if coverage.empty:
        return _column("What was not recorded", "The run holds no account of it.", None)
    if missing.empty:
        return _column("What was recorded", "Everything was recorded.", None)
    all_layers = coverage["layer"].nunique()
    told = (
        f"{missing['layer'].nunique()} of {all_layers} {'layer' if all_layers == 1 else 'layers'} not wholly recorded"
    )
    counts = tier_counts(latest_coverage(coverage))
    if counts:
        told += ". Recorded: " + "; ".join(f"{name} of {count}" for name, count in counts.items())
    told += f"; the first {MOST_LAYERS} are listed" if len(missing) > MOST_LAYERS else ""
    listed = missing.head(MOST_LAYERS)
    return _column("What was not recorded", told, table_of(listed.assign(code=listed["code"].str.replace("_", " "))))


def _events(events: pd.DataFrame) -> dmc.Stack:
    if events.empty:
        return _column("Events", "None.", None)
    newest = events[["step", "kind", "text"]].iloc[::-1].head(MOST_EVENTS)
    count = f"{len(events)} {'event' if len(events) == 1 else 'events'}, newest first"
    left_out = f"; the newest {MOST_EVENTS} are listed" if len(events) > MOST_EVENTS else ""
    return _column("Events", count + left_out, table_of(newest))


def _column(title: str, told: str, table: Any) -> dmc.Stack:
    box = None if table is None else scrolled(title, table)
    parts = [dmc.Text(title, fw=600, size="sm"), dmc.Text(told, size="sm", c="dimmed"), box]
    return dmc.Stack([part for part in parts if part is not None], gap=4)
