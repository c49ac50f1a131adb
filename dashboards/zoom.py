"""What a user looks at: figures are drawn anew for the part that is seen, in as much detail as fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import plotly.graph_objects as go

from gradscope.figures.window import ALL, Window

Zoom = Mapping[str, Mapping[str, Any]]
"""By figure: the ranges `x` and `y` that the browser shows, and `of`, the figure they were chosen in."""


def magnified(draw: Callable[[Window], go.Figure], name: str, zoom: Zoom | None) -> go.Figure:
    """Return a figure of the part that is seen.

    The figure states its ranges, for dcc.Graph makes what a user chose a part of the figure that the next one replaces.
    Ranges chosen in another figure (of another run or metric) do not count.
    """
    seen = (zoom or {}).get(name)
    if not seen:
        return draw(ALL)
    window = Window.of(seen.get("x"), seen.get("y"))
    figure = draw(window)
    if figure.layout.uirevision != seen.get("of"):
        return draw(ALL)
    if window.x is not None:
        figure.update_layout(xaxis_range=window.x)
    if window.y is not None:
        figure.update_layout(yaxis_range=window.y)
        figure.update_yaxes(range=window.y, selector={"matches": "y"})
    return figure
