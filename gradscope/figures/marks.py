"""Values that an axis cannot show: found, named, and drawn in a strip of their own below the axis.

A logarithmic axis has no place for an exact zero, and no axis has one for NaN or infinity. Dropping them
would make a vanished or a broken layer look like one that was never recorded, so they get marks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from gradscope.figures.style import ink


@dataclass(frozen=True)
class Mark:
    """A kind of value without a place on an axis."""

    code: int
    label: str
    tick: str
    symbol: str


PLAIN = 0
ZERO = Mark(1, "exact zero", "0", "triangle-down")
NEGATIVE = Mark(2, "negative", "< 0", "square")
INFINITE = Mark(3, "infinite", "±∞", "triangle-up")
NAN = Mark(4, "not a number", "NaN", "x")
MARKS = (ZERO, NEGATIVE, INFINITE, NAN)
# Not a value but a step: the optimizer did not take it.
SKIPPED = Mark(5, "skipped step", "skip", "diamond-tall")
ABSENT = -1


def classify(values: NDArray[Any], log: bool, present: NDArray[np.bool_] | None = None) -> NDArray[np.int8]:
    """Return the code of each value's mark: 0 for a plain value, -1 where nothing was recorded.

    Zero and negative values are plain on a linear axis.

    >>> classify(np.array([1.0, 0.0, -1.0, np.inf, np.nan]), log=True).tolist()
    [0, 1, 2, 3, 4]
    >>> classify(np.array([1.0, 0.0, -1.0, np.inf, np.nan]), log=False).tolist()
    [0, 0, 0, 3, 4]
    """
    codes = np.zeros(values.shape, dtype=np.int8)
    if log:
        codes[values == 0] = ZERO.code
        codes[values < 0] = NEGATIVE.code
    codes[np.isinf(values)] = INFINITE.code
    codes[np.isnan(values)] = NAN.code
    if present is not None:
        codes[~present] = ABSENT
    return codes


def colour(mark: Mark, theme: str) -> str:
    """Return the colour of a mark, the same in every figure."""
    colours = ink(theme)
    by_code = {ZERO.code: colours.zero, NAN.code: colours.nan, INFINITE.code: colours.infinite}
    by_code[SKIPPED.code] = colours.text
    return by_code.get(mark.code, colours.faint)


def kinds(codes: Iterable[NDArray[np.int8]]) -> list[Mark]:
    """Return the marks that occur, in their fixed order."""
    found = {int(code) for array in codes for code in np.unique(array)}
    return [mark for mark in MARKS if mark.code in found]


def add_strip(figure: go.Figure, marks: list[Mark], theme: str, *, neutral: bool = False) -> None:
    """Make room below the plot for one row of symbols per mark, named in the legend; nothing without marks.

    ``neutral`` names them in grey, where the symbols in the plot have the colours of several runs.
    """
    if not marks:
        return
    height = 0.065 * len(marks)
    figure.update_layout(
        yaxis={"domain": [height + 0.035, 1.0]},
        yaxis2={
            "domain": [0.0, height],
            "range": [len(marks) - 0.5, -0.5],
            "tickmode": "array",
            "tickvals": list(range(len(marks))),
            "ticktext": [mark.tick for mark in marks],
            "tickangle": 0,
            "tickfont": {"size": 11},
            "fixedrange": True,
            "gridcolor": "rgba(0,0,0,0)",
            "zeroline": False,
            "anchor": "x",
        },
        xaxis={"anchor": "y2"},
    )
    for mark in marks:
        add_legend(figure, mark, mark.symbol, theme, yaxis="y2", grey=neutral)


def add_legend(
    figure: go.Figure,
    mark: Mark,
    symbol: str,
    theme: str,
    label: str | None = None,
    yaxis: str = "y",
    grey: bool = False,
) -> None:
    """Name a mark in the legend, whichever traces draw it."""
    marker = {"symbol": symbol, "size": 10, "color": ink(theme).faint if grey else colour(mark, theme)}
    name = label or mark.label
    figure.add_scatter(
        x=[None],
        y=[None],
        yaxis=yaxis,
        mode="markers",
        marker=marker,
        name=name,
        showlegend=True,
        hoverinfo="skip",
    )


def add_symbols(
    figure: go.Figure,
    marks: list[Mark],
    mark: Mark,
    x: Any,
    text: Any,
    *,
    theme: str,
    fill: str | None = None,
    lift: float = 0.0,
) -> None:
    """Draw the symbols of one mark in its row of the strip; ``text`` is shown on hover.

    ``lift`` moves them within the row, so that those of several runs do not hide each other.
    """
    if not len(x):
        return
    figure.add_scatter(
        x=x,
        y=[marks.index(mark) + lift] * len(x),
        yaxis="y2",
        mode="markers",
        marker={"symbol": mark.symbol, "size": 8, "color": fill or colour(mark, theme)},
        name=mark.label,
        showlegend=False,
        text=text,
        hovertemplate="%{text}<extra>" + mark.label + "</extra>",
    )
