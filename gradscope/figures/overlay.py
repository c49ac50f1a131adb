"""A prediction, drawn over what was measured."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from gradscope.figures import style, wording
from gradscope.figures.decimate import spread
from gradscope.figures.prediction import Prediction

MOST_POINTS = 300
"""Layers at which a prediction is drawn: it is smooth, unlike what was measured."""


def add_prediction(figure: go.Figure, found: Prediction, theme: str) -> None:
    """Draw a prediction as a dashed line with its band; nothing where there is nothing to draw."""
    if found.empty:
        return
    rows = found.frame.iloc[spread(len(found.frame), MOST_POINTS)]
    _add_band(figure, rows, style.run_colour(0, theme))
    figure.add_scatter(
        x=rows["depth"],
        y=rows["value"],
        mode="lines",
        name=found.name,
        line={"color": style.ink(theme).text, "dash": "dash", "width": 1.5},
        customdata=np.column_stack([[wording.number(one) for one in rows[end]] for end in ("value", "low", "high")]),
        hovertemplate="theory %{customdata[0]} [%{customdata[1]}, %{customdata[2]}]<extra></extra>",
        showlegend=True,
    )


def _add_band(figure: go.Figure, rows: pd.DataFrame, colour: str) -> None:
    """Fill between the ends of the band, a polygon for each stretch without a gap."""
    ends = rows[["low", "high"]].to_numpy(np.float64)
    whole = np.isfinite(ends).all(axis=1)
    x: list[float] = []
    y: list[float] = []
    for known, group in itertools.groupby(range(len(rows)), lambda place: bool(whole[place])):
        places = list(group)
        if not known:
            continue
        depths = rows["depth"].to_numpy(np.float64)[places]
        x += [*depths, *depths[::-1], np.nan]
        y += [*ends[places, 1], *ends[places, 0][::-1], np.nan]
    if x:
        figure.add_scatter(
            x=np.array(x),
            y=np.array(y),
            mode="lines",
            line={"width": 0},
            fill="toself",
            fillcolor=faded(colour),
            hoverinfo="skip",
            showlegend=False,
        )


def faded(colour: str, alpha: float = 0.16) -> str:
    """Return a colour that lets through what lies behind.

    >>> faded("#0072B2")
    'rgba(0,114,178,0.16)'
    """
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:g})"
