"""Building blocks that the pages share."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import dash_mantine_components as dmc
import pandas as pd
import plotly.graph_objects as go
from dash import dcc, html

from gradscope.errors import GradscopeError
from gradscope.figures import CONFIG, message

_LOG = logging.getLogger(__name__)
STATUS_COLOURS = {
    "running": "blue",
    "finished": "green",
    "interrupted": "orange",
    "failed": "red",
    "unreadable": "red",
}
INTERVAL_MS = 1000
REST = 5
"""Times as long as it took to draw a page, a page waits before it asks again: most of a core is left to training."""
LONGEST_MS = 30_000


# A figure comes from the server in the range that is seen: only "all" leads out of it, not the range it came with.
RESETTING: dict[str, Any] = {
    "doubleClick": "autosize",
    "modeBarButtonsToRemove": [
        "resetScale2d" if name == "autoScale2d" else name for name in CONFIG["modeBarButtonsToRemove"]
    ],
}


def graph(identity: str, height: str = "380px") -> dmc.Paper:
    """Return a framed graph, empty until its page fills it."""
    config: Any = CONFIG | RESETTING
    figure = dcc.Graph(id=identity, figure=blank(), config=config, style={"height": height})
    return dmc.Paper(figure, withBorder=True, radius="md", className="frame")


def blank() -> go.Figure:
    """Return a figure without anything, transparent so that it does not flash in either theme."""
    hidden = {"visible": False}
    clear = "rgba(0,0,0,0)"
    return go.Figure(layout={"xaxis": hidden, "yaxis": hidden, "paper_bgcolor": clear, "plot_bgcolor": clear})


def drawn(title: str, theme: str, draw: Callable[[], go.Figure]) -> go.Figure:
    """Return a figure, or where it cannot be drawn one that says why."""
    try:
        return draw()
    except GradscopeError as error:
        return message(title, str(error), theme)
    except Exception as error:
        # A fault in one figure takes neither the other panels nor the page down.
        _LOG.exception("the figure %r could not be drawn", title)
        return message(title, f"this figure could not be drawn: {type(error).__name__}: {error}", theme)


def ticker(page: str) -> dcc.Interval:
    """Return the clock of a page; the page disables it while it waits for an answer."""
    return dcc.Interval(id=f"{page}-tick", interval=INTERVAL_MS)


def patience(seconds: float) -> int:
    """Return the milliseconds until a page asks again that took so long to draw.

    >>> patience(0.05), patience(0.8), patience(60.0)
    (1000, 4000, 30000)
    """
    return min(LONGEST_MS, max(INTERVAL_MS, round(seconds * 1000 * REST)))


def notice(text: str, colour: str = "red", title: str | None = None) -> dmc.Alert:
    """Return a message on the page."""
    return dmc.Alert(text, title=title, color=colour, variant="light", className="notice")


def badge(status: str) -> dmc.Badge:
    """Return the badge of a run's status."""
    return dmc.Badge(status, color=STATUS_COLOURS.get(status, "gray"), variant="light", className="status")


def trace(error: str) -> html.Pre:
    """Return what ended a run, whole, in a box that scrolls."""
    # Keys scroll only what can have the focus.
    return html.Pre(error.strip(), className="code trace", tabIndex=0)


def scrolled(name: str, content: Any) -> html.Div:
    """Return a named box that scrolls where its content is too long."""
    # Keys scroll only what can have the focus.
    named: dict[str, Any] = {"aria-label": name}
    return html.Div(content, className="scroll", tabIndex=0, role="region", **named)


def table_of(frame: pd.DataFrame) -> html.Table:
    """Return a table of texts and numbers, as they are, under the names of its columns."""
    head = html.Tr([html.Th(shown_name(str(name))) for name in frame.columns])
    rows = [html.Tr([html.Td(str(cell)) for cell in row]) for row in frame.itertuples(index=False)]
    return html.Table([html.Thead(head), html.Tbody(rows)], className="table")


def shown_name(name: str) -> str:
    """Return the name of a column as a heading.

    >>> shown_name("output_grad_norm")
    'Output grad norm'
    """
    text = name.replace("_", " ")
    return f"{text[:1].upper()}{text[1:]}"


def howto(where: str) -> dmc.Stack:
    """Return what an empty folder says: how a run comes into being."""
    code = (
        "import gradscope as gs\n\n"
        f'with gs.watch(model, optimizer, out="{where.rstrip("/")}/first", every=10) as probe:\n'
        "    for x, y in loader:\n"
        "        loss = loss_fn(model(x), y)\n"
        "        loss.backward()\n"
        "        optimizer.step()\n"
        "        optimizer.zero_grad()\n"
        "        probe.log(loss=loss)"
    )
    return dmc.Stack(
        [
            dmc.Title("No runs yet", order=3),
            dmc.Text(f"There is no run in {where}. Record one, and it appears here by itself:"),
            html.Pre(code, className="code"),
            dmc.Text("Or let gradscope train small networks on real data: gradscope demo --out DIR"),
        ],
        id="howto",
    )


def choices(values: list[str]) -> list[dict[str, Any]]:
    """Return the options of a select, long ones shortened where that leaves them apart."""
    labels = [shortened(value) for value in values]
    seen = Counter(labels)
    pairs = zip(values, labels, strict=True)
    return [{"value": value, "label": label if seen[label] == 1 else value} for value, label in pairs]


def shortened(text: str, limit: int = 60) -> str:
    """Shorten a text in its middle, as text: a select reads no markup.

    >>> shortened("<b>depth=32,init=xavier</b>", 13)
    '<b>dep…er</b>'
    """
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]}…{text[len(text) - (limit - half - 1) :]}"
