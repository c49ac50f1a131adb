"""How every figure looks: templates, palettes, the mode bar, how numbers and names are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from gradscope.errors import InvalidValueError
from gradscope.figures import wording

# Passed to every graph. plotly.js offers to upload a figure ("share chart") unless told not to.
CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["sendChartToCloud", "lasso2d", "select2d", "autoScale2d"],
    "toImageButtonOptions": {"format": "svg"},
    "responsive": True,
}

# Okabe and Ito's palette without its yellow, which is too light for a line on white.
QUALITATIVE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#882255")
BRIGHTER = {"#0072B2": "#4DA3E0", "#882255": "#C8588C"}
SEQUENTIAL = "Viridis"
DIVERGING = "RdBu_r"


@dataclass(frozen=True)
class Ink:
    """The colours of a theme."""

    paper: str
    text: str
    faint: str
    grid: str
    zero: str
    nan: str
    infinite: str
    # Part of the sequential palette that stands out against the paper.
    span: tuple[float, float]


INKS: dict[str, Ink] = {
    "light": Ink("#ffffff", "#212529", "#6c757d", "#e9ecef", "#D55E00", "#CC79A7", "#000000", (0.0, 0.88)),
    "dark": Ink("#242424", "#e3e3e3", "#a0a0a0", "#3b3b3b", "#FF7F2A", "#F29BD0", "#ffffff", (0.22, 1.0)),
}


def ink(theme: str) -> Ink:
    """Return the colours of a theme; InvalidValueError for a name other than light or dark."""
    if theme not in INKS:
        raise InvalidValueError(f"theme must be 'light' or 'dark', not {theme!r}")
    return INKS[theme]


def template(theme: str = "light") -> go.layout.Template:
    """Return the template that all figures share."""
    colours = ink(theme)
    axis = {
        "gridcolor": colours.grid,
        "linecolor": colours.faint,
        "showline": True,
        "ticks": "outside",
        "tickcolor": colours.faint,
        "ticklen": 4,
        "zeroline": False,
        "automargin": True,
        "exponentformat": "power",
        "title": {"standoff": 8, "font": {"size": 13}},
    }
    layout = go.Layout(
        font={
            "family": "Inter, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif",
            "size": 13,
            "color": colours.text,
        },
        paper_bgcolor=colours.paper,
        plot_bgcolor=colours.paper,
        colorway=list(QUALITATIVE),
        title={
            "x": 0.012,
            "xref": "container",
            "xanchor": "left",
            "y": 0.975,
            "yref": "container",
            "yanchor": "top",
            "font": {"size": 15},
            "subtitle": {"font": {"size": 12, "color": colours.faint}},
        },
        # Steps and depths are counts: 15,000 rather than 1.5×10⁴.
        xaxis=axis | {"exponentformat": "none", "separatethousands": True},
        yaxis=axis,
        legend={
            "orientation": "h",
            "yref": "container",
            "y": 0.0,
            "yanchor": "bottom",
            "x": 0,
            "font": {"size": 12},
        },
        hoverlabel={"font": {"size": 12}, "namelength": -1},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": colours.faint, "activecolor": colours.text},
        margin={"l": 64, "r": 20, "t": 64, "b": 48},
    )
    return go.layout.Template(layout=layout)


def empty_figure(title: str, subtitle: str, theme: str) -> go.Figure:
    """Return a figure without traces in the house style."""
    heading = {"text": title, "subtitle": {"text": subtitle}}
    return go.Figure(layout={"template": template(theme), "title": heading})


def message(title: str, text: str, theme: str = "light") -> go.Figure:
    """Return a figure that says in words why there is nothing to draw."""
    figure = empty_figure(title, "", theme)
    figure.update_layout(xaxis={"visible": False}, yaxis={"visible": False})
    add_note(figure, text, theme)
    return figure


def add_note(figure: go.Figure, text: str, theme: str, yref: str = "paper") -> None:
    """Write a text into the middle of the plot, of which ``yref`` names the axis."""
    where = {"x": 0.5, "y": 0.5, "xref": "paper", "yref": yref, "showarrow": False}
    lines = (wording.label(line, 80) for line in wording.wrap(text))
    figure.add_annotation(text="<br>".join(lines), font={"size": 13, "color": ink(theme).faint}, **where)


def note_marks(figure: go.Figure, values: Any, found: Any, theme: str) -> None:
    """Say that there is nothing to draw on the value axis where all values have marks or none was recorded."""
    if not np.isfinite(values).any():
        finite = any(one.tick in ("0", "< 0") for one in found)
        add_note(figure, f"no {'value above zero' if finite else 'finite value'} to draw", theme, "y domain")


def depth_colours(count: int, theme: str) -> list[str]:
    """Return one colour per layer, from the first to the last depth."""
    low, high = ink(theme).span
    points = [low + (high - low) * index / max(count - 1, 1) for index in range(count)]
    return [str(colour) for colour in sample_colorscale(SEQUENTIAL, points)]


def depth_scale(theme: str) -> list[list[Any]]:
    """Return the colour scale that ``depth_colours`` samples, for a colour bar."""
    return [[index / 10, colour] for index, colour in enumerate(depth_colours(11, theme))]


def run_colour(index: int, theme: str) -> str:
    """Return the colour of the run with that place in a comparison."""
    colour = QUALITATIVE[index % len(QUALITATIVE)]
    return BRIGHTER.get(colour, colour) if theme == "dark" else colour


def run_dash(index: int) -> str:
    """Return the dash of the run with that place in a comparison: another one when the colours begin anew."""
    return ("solid", "dash", "dot")[index // len(QUALITATIVE) % 3]
