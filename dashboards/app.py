"""The application: a shell with a link for each page, and the theme."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html

from gradscope.dashboards.pages import flow, information, runs, sweep, theory
from gradscope.dashboards.source import Source
from gradscope.runs import Run, Runs

ASSETS = Path(__file__).parent / "assets"
PAGES = {
    "runs": (runs.PATH, "Runs"),
    "flow": (flow.PATH, "Gradient flow"),
    "sweep": (sweep.PATH, "Sweep"),
    "theory": (theory.PATH, "Theory"),
    "information": (information.PATH, "Information"),
}
# Where a page wants to go: the browser's script puts it into the address bar, the pages follow the address.
GOALS = ("runs-go", "flow-go", "sweep-go", "sweep-open", "theory-go", "theory-open", "information-go")


def create_app(source: str | os.PathLike[str] | Run | Runs) -> Dash:
    """Return the dashboard of a run or of runs, as an application that any WSGI server can serve.

    All assets come from installed packages; nothing is fetched from the network.

    Args:
        source: Folder of a run or of runs (it may be empty still), a Run, or Runs.

    Raises:
        RunFormatError: There is no such folder.
    """
    found = Source(source)
    app = Dash(
        "gradscope.dashboards",
        assets_folder=str(ASSETS),
        title="gradscope",
        update_title="",
        serve_locally=True,
    )
    app.layout = shell()
    for page in (runs, flow, sweep, theory, information):
        page.register(app, found)
    _register(app)
    return app


def shell() -> dmc.MantineProvider:
    """Return the layout: all pages, of which one is visible. Hidden ones keep their callbacks alive."""
    links = [dcc.Link(label, id=f"nav-{name}", href=path, className="nav") for name, (path, label) in PAGES.items()]
    header = dmc.Group(
        [
            dmc.Group([dmc.Text("gradscope", fw=700, size="lg"), *links], gap="lg", wrap="nowrap", className="links"),
            dmc.Switch(id="dark", label="Dark", size="sm", persistence=True),
        ],
        justify="space-between",
        wrap="nowrap",
        h="100%",
        px="md",
    )
    modules = {"runs": runs, "flow": flow, "sweep": sweep, "theory": theory, "information": information}
    pages = [html.Div(page.layout(), id=f"page-{name}", hidden=True) for name, page in modules.items()]
    lost = html.Div(id="page-lost", children="There is no such page; the links above lead to those there are.")
    stores = [dcc.Store(id=goal) for goal in (*GOALS, "went")]
    frame = dmc.AppShell(
        [dmc.AppShellHeader(header), dmc.AppShellMain([*pages, lost])], header={"height": 52}, padding="md"
    )
    theme = dcc.Store(id="theme", data="light")
    return dmc.MantineProvider(
        html.Div([dcc.Location(id="url", refresh=False), theme, *stores, frame], id="root"),
        id="mantine",
        forceColorScheme="light",
    )


def visible(path: str | None) -> dict[str, bool]:
    """Return which page is hidden for a path.

    >>> visible("/flow")
    {'runs': True, 'flow': False, 'sweep': True, 'theory': True, 'information': True, 'lost': True}
    """
    hidden = {name: path != own for name, (own, _) in PAGES.items()}
    return hidden | {"lost": path is None or not all(hidden.values())}


def _register(app: Dash) -> None:
    names = list(PAGES)

    @app.callback(
        output={
            "hidden": {name: Output(f"page-{name}", "hidden") for name in (*names, "lost")},
            "nav": [Output(f"nav-{name}", "className") for name in names],
            "ticks": [Output(f"{name}-tick", "max_intervals") for name in names],
        },
        inputs={"path": Input("url", "pathname")},
    )
    def route(path: str | None) -> dict[str, Any]:
        hidden = visible(path)
        return {
            "hidden": hidden,
            "nav": ["nav" if hidden[name] else "nav here" for name in names],
            # The clock of a hidden page stands still.
            "ticks": [0 if hidden[name] else -1 for name in names],
        }

    in_browser: Any = app.clientside_callback
    in_browser(ClientsideFunction("gradscope", "go"), Output("went", "data"), *(Input(goal, "data") for goal in GOALS))
    in_browser(
        ClientsideFunction("gradscope", "theme"),
        Output("theme", "data"),
        Output("mantine", "forceColorScheme"),
        Output("dark", "checked"),
        Input("dark", "checked"),
        State("url", "pathname"),
    )
