"""How every figure looks: templates, palettes, the mode bar, how numbers and names are written."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from gradscope.errors import InvalidValueError

Theme = Literal["light", "dark"]

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
    where = {"x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper", "showarrow": False}
    figure.add_annotation(text="<br>".join(wrap(text)), font={"size": 13, "color": ink(theme).faint}, **where)
    return figure


def depth_colours(count: int, theme: str) -> list[str]:
    """Return one colour per layer, from the first to the last depth."""
    low, high = ink(theme).span
    points = [low + (high - low) * index / max(count - 1, 1) for index in range(count)]
    return [str(colour) for colour in sample_colorscale(SEQUENTIAL, points)]


def depth_scale(theme: str) -> list[list[Any]]:
    """Return the colour scale that ``depth_colours`` samples, for a colour bar."""
    return [[index / 10, colour] for index, colour in enumerate(depth_colours(11, theme))]


def colour_bar(title: str) -> dict[str, Any]:
    """Return the settings that colour bars share."""
    heading = {"text": title, "side": "right", "font": {"size": 13}}
    return {"title": heading, "thickness": 14, "outlinewidth": 0}


def run_colour(index: int, theme: str) -> str:
    """Return the colour of the run with that place in a comparison."""
    colour = QUALITATIVE[index % len(QUALITATIVE)]
    return BRIGHTER.get(colour, colour) if theme == "dark" else colour


def run_dash(index: int) -> str:
    """Return the dash of the run with that place in a comparison: another one when the colours begin anew."""
    return ("solid", "dash", "dot")[index // len(QUALITATIVE) % 3]


def legend_columns(names: Sequence[str]) -> dict[str, Any]:
    """Return the legend's layout: two columns where several long names would fill a row each."""
    wide = len(names) > 2 and max(map(len, names)) > 16
    return {"entrywidthmode": "fraction", "entrywidth": 0.49} if wide else {}


def distinct(names: Sequence[str]) -> list[str]:
    """Drop from several names the parts, between commas and slashes, that all of them share.

    Of a part such as ``init=xavier`` the word alone says enough; numbers keep their key.

    >>> distinct(["depth=8,init=xavier,seed=0", "depth=9,init=kaiming,seed=0"])
    ['depth=8, xavier', 'depth=9, kaiming']
    >>> distinct(["a"])
    ['a']
    """
    parts = [re.split(r"[,/]", name) for name in names]
    shared = set.intersection(*map(set, parts)) if len(names) > 1 else set()
    if not shared:
        return list(names)
    own = [[re.sub(r"^\w+=(?=[A-Za-z])", "", part) for part in one if part not in shared] for one in parts]
    return [", ".join(one) or name for one, name in zip(own, names, strict=True)]


def depth_ticks(last: int) -> dict[str, Any]:
    """Return ticks at whole depths only: one at layer 2.5 would name a layer that does not exist."""
    return {"dtick": 1} if last <= 20 else {"nticks": 12, "tickformat": "d"}


def depth_axis(last: int) -> dict[str, Any]:
    """Return the settings of an axis of depths from 1 to ``last``."""
    edge = 0.5 + 0.02 * last
    return {"title": {"text": "Depth (1 = first layer)"}, "range": [1 - edge, last + edge], **depth_ticks(last)}


def log_axis(low: float, high: float) -> dict[str, Any]:
    """Return the settings of a log axis for values from ``low`` to ``high``: labels at powers of ten.

    Over less than a decade and a half plotly's own ticks (2, 5) are needed.
    """
    decades = math.log10(high / low) if 0 < low <= high < math.inf else 0.0
    if decades < 1.5:
        return {"type": "log"}
    return {"type": "log", "dtick": max(1, math.ceil(decades / 7))}


def short(text: str, limit: int = 34) -> str:
    """Shorten a long name in its middle, where names of a sweep differ least.

    >>> short("depth=32,activation=sigmoid,init=xavier_uniform,seed=2", 30)
    'depth=32,activa…r_uniform,seed=2'
    """
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}…{text[-half - 1 :]}"


def number(value: float) -> str:
    """Write a number for people: three figures, powers of ten as such.

    >>> number(0.23512), number(4.02e-12), number(0.0), number(float("nan")), number(1.0)
    ('0.235', '4.02×10⁻¹²', '0', 'not a number', '1')
    """
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}".replace("-", "−")
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}×10{superscript(int(exponent))}".replace("-", "−")


def superscript(value: int) -> str:
    """Write an integer in superscript digits.

    >>> superscript(-12)
    '⁻¹²'
    """
    return str(value).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def wrap(text: str, width: int = 60) -> list[str]:
    """Break a text into lines of at most ``width`` characters, at spaces.

    >>> wrap("one two three", 8)
    ['one two', 'three']
    """
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
