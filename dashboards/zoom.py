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

    Ranges chosen in another figure (of another run or metric) do not count: the browser has forgotten them too.
    """
    seen = (zoom or {}).get(name)
    if not seen:
        return draw(ALL)
    figure = draw(Window.of(seen.get("x"), seen.get("y")))
    return figure if figure.layout.uirevision == seen.get("of") else draw(ALL)
