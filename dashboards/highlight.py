"""Layers that a finding names, marked in the figures over depth."""

from __future__ import annotations

import plotly.graph_objects as go

from gradscope.figures.style import ink

ACROSS = ("profile", "ledger", "waterfall")
UP = ("heatmap",)


def marked(figure: go.Figure, name: str, layers: tuple[int, int] | None, theme: str) -> go.Figure:
    """Shade the marked layers in a figure with an axis of depths; other figures, and those without data, stay."""
    if layers is None or not figure.data:
        return figure
    low, high = layers[0] - 0.5, layers[1] + 0.5
    colour = ink(theme).text
    if name in ACROSS:
        shape = {"x0": low, "x1": high, "xref": "x", "y0": 0, "y1": 1, "yref": "paper", "opacity": 0.09}
        figure.add_shape(type="rect", layer="below", fillcolor=colour, line={"width": 0}, **shape)
    elif name in UP:
        # Cells cover what lies below them: a frame around the rows.
        shape = {"x0": 0, "x1": 1, "xref": "paper", "y0": low, "y1": high, "yref": "y"}
        figure.add_shape(type="rect", line={"width": 2, "color": "#D55E00"}, **shape)
    return figure
