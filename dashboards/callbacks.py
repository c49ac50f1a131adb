"""Callbacks that pages have in common: when a page is drawn, where its controls lead, what a click on a map opens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, TypeVar

from dash import Dash, Input, Output, State, no_update
from dash.exceptions import PreventUpdate

from gradscope.dashboards.state import FlowState


class PageState(Protocol):
    """What an address says of a page."""

    PATH: ClassVar[str]

    def href(self) -> str:
        """Return the address."""


Shown = TypeVar("Shown", bound=PageState)


def asked(
    page: str, controls: Mapping[str, str] | None = None, *, theme: bool = True, **more: Input | State
) -> dict[str, Any]:
    """Return when a page is drawn: at a new address, when its clock strikes, in another theme.

    The clock stands still until the answer is there.

    Args:
        page: Name of the page.
        controls: Property of each control that holds its value; what they show is given as `current`.
        theme: The page is drawn in a theme.
        more: What else it is drawn anew for, or has to know.
    """
    inputs: dict[str, Any] = {
        "path": Input("url", "pathname"),
        "search": Input("url", "search"),
        "tick": Input(f"{page}-tick", "n_intervals"),
        "shown": State(f"{page}-shown", "data"),
    }
    if theme:
        inputs["theme"] = Input("theme", "data")
    if controls:
        inputs["current"] = {name: State(f"{page}-{name}", value) for name, value in controls.items()}
    return {
        "inputs": inputs | more,
        "running": [(Output(f"{page}-tick", "disabled"), True, False)],
    }


def settled(page: Mapping[str, Any], current: Mapping[str, Any], key: str, **more: Any) -> dict[str, Any]:
    """Return the answer to a page, with a note of what it is of and of how its controls are set.

    Controls that show what they should are left alone: while the answer travels, somebody may be moving them.
    """
    set_here = {name: page[name] for name in current if page[name] is not no_update}
    alike = {name: no_update for name, value in set_here.items() if value == current[name]}
    return {**page, **alike, "shown": {"key": key, "set": set_here, **more}}


def lead_on(
    app: Dash,
    page: str,
    controls: Mapping[str, str],
    parse: Callable[[str | None], Shown],
    chosen: Callable[[Shown, dict[str, Any], dict[str, Any]], Shown],
) -> None:
    """Lead to another address when a control is moved away from what the page has set itself.

    Args:
        app: The application.
        page: Name of the page.
        controls: Property of each control that holds its value.
        parse: Returns the state of an address.
        chosen: Returns the state for a state, the values of the controls and what the page has set.
    """

    @app.callback(
        Output(f"{page}-go", "data"),
        inputs={
            "values": {name: Input(f"{page}-{name}", value) for name, value in controls.items()},
            "shown": State(f"{page}-shown", "data"),
            "path": State("url", "pathname"),
            "search": State("url", "search"),
        },
        prevent_initial_call=True,
    )
    def choose(values: dict[str, Any], shown: dict[str, Any] | None, path: str, search: str) -> str:
        state = parse(search)
        wanted = chosen(state, values, shown["set"]) if shown else state
        if path != state.PATH or wanted == state:
            raise PreventUpdate
        return wanted.href()


def open_clicked(app: Dash, page: str) -> None:
    """Open the run behind a cell of a page's map when it is clicked."""

    @app.callback(
        Output(f"{page}-open", "data"),
        Output(f"{page}-map", "clickData"),
        Input(f"{page}-map", "clickData"),
        prevent_initial_call=True,
    )
    def open_run(click: dict[str, Any] | None) -> tuple[str, None]:
        name = clicked_run(click)
        if name is None:
            raise PreventUpdate
        # Forgetting the click lets the same cell be clicked again after coming back.
        return FlowState(name).href(), None


def clicked_run(click: dict[str, Any] | None) -> str | None:
    """Return the run behind a clicked cell; None for a cell without one."""
    points = (click or {}).get("points") or [{}]
    return points[0].get("customdata") or None
