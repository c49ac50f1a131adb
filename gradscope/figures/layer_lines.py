"""A metric over steps, one line per layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from gradscope.figures import axes, style, wording
from gradscope.figures import marks as mk
from gradscope.figures.cells import Cells, cells
from gradscope.figures.decimate import LINE_POINTS, broken, column_of, compact, line_points, point_style, spread
from gradscope.figures.skipped import add_skipped, skipped_frame
from gradscope.figures.values import is_empty, metric_of
from gradscope.figures.window import ALL, Range, Window

if TYPE_CHECKING:
    from gradscope.runs import Run

STRIP_COLUMNS = 150
MOST_LINES = 100
"""Layers that are drawn as lines: more are more than an eye can tell apart."""


@dataclass(frozen=True)
class Line:
    """One line as drawn; NaN breaks it where a value without a place on the axis lies in between."""

    depth: int
    layer: str
    steps: NDArray[np.float64]
    values: NDArray[np.float64]


def timeline_frame(run: Run, metric: str, points: int = LINE_POINTS, window: Window = ALL) -> list[Line]:
    """Return the lines of a metric, at most ``points`` values each (extremes kept) and the breaks.

    Layers that never recorded the metric have no line. Of more than `MOST_LINES` layers the first, the last, those of
    the least and of the greatest value and evenly many between are drawn.
    """
    part = cells(run, metric).between(window.x)
    return [_line(part, row, points) for row in drawn_layers(part, window.y)]


def drawn_layers(part: Cells, heights: Range | None = None, most: int = MOST_LINES) -> list[int]:
    """Return the rows of the layers that get a line; of too many, only of those with a value at the heights seen."""
    rows = np.flatnonzero(part.recorded)
    if len(rows) <= most:
        return [int(row) for row in rows]
    lows = np.fmin.reduce(part.heights[rows], axis=1, initial=np.inf)
    highs = np.fmax.reduce(part.heights[rows], axis=1, initial=-np.inf)
    if heights is not None and (near := (lows <= heights[1]) & (highs >= heights[0])).any():
        rows, lows, highs = rows[near], lows[near], highs[near]
    chosen = np.union1d(spread(len(rows), most - 2), [lows.argmin(), highs.argmax()])
    return [int(row) for row in rows[chosen]]


def _line(part: Cells, row: int, points: int) -> Line:
    chosen = line_points(part.steps, part.heights[row], points)
    after = broken(chosen, part.codes[row]) + 1
    steps = np.insert(part.steps[chosen].astype(np.float64), after, np.nan)
    values = np.insert(part.values[row, chosen], after, np.nan)
    return Line(int(part.depths[row]), part.names[row], steps, values)


def marks_frame(run: Run, metric: str, columns: int = STRIP_COLUMNS, window: Window = ALL) -> pd.DataFrame:
    """Return the values without a place on the axis, gathered in at most ``columns`` columns of steps.

    Returns:
        Columns mark, step (the first with such a value in its column), layers (how many layers have one) and
        low, high (the least and greatest depth among them).
    """
    part = cells(run, metric).between(window.x)
    rows, steps = np.nonzero(part.codes > mk.PLAIN)
    frame = pd.DataFrame(
        {
            "mark": part.codes[rows, steps],
            "column": column_of(len(part.steps), columns)[steps],
            "step": part.steps[steps],
            "depth": part.depths[rows],
        }
    )
    groups = frame.groupby(["mark", "column"])
    found = groups.agg(step=("step", "min"), layers=("depth", "nunique"), low=("depth", "min"), high=("depth", "max"))
    return found.reset_index().drop(columns="column")


def timeline(
    run: Run, metric: str = "output_grad_norm", *, theme: str = "light", window: Window | None = None
) -> go.Figure:
    """Draw a metric over steps, one line per layer, coloured by depth.

    Each line has at most 300 points, its extremes among them, whatever the number of steps; of more than 100 layers,
    100 are drawn, and the subtitle says so. Steps that the optimizer did not take have marks below the axis.

    Args:
        run: A run.
        metric: Name of a recorded metric.
        theme: ``light`` or ``dark``.
        window: The part that is seen, drawn in as much detail as fits.
    """
    spec, part = metric_of(run, metric), window or ALL
    heading = f"{wording.label(spec.label)} over steps"
    if is_empty(run, metric):
        return style.message(heading, f"run {run.name!r} has no recorded step of metric {metric!r} yet", theme)
    lines, marked = timeline_frame(run, metric, window=part), marks_frame(run, metric, window=part)
    found, whole = mk.kinds([marked["mark"].to_numpy(np.int8)]), cells(run, metric)
    skipped = skipped_frame(run, STRIP_COLUMNS, part.x)
    strip = [*found, *([mk.SKIPPED] if len(skipped) else [])]
    figure = style.empty_figure(heading, _subtitle(run, whole, len(lines), part), theme)
    last = int(whole.depths[whole.recorded].max(initial=1))
    colours = style.depth_colours(last, theme)
    for line in lines:
        _add_line(figure, line, colours[line.depth - 1])
    _add_marks(figure, marked, strip, theme)
    add_skipped(figure, skipped, strip, theme)
    _add_depth_bar(figure, len(lines), last, theme)
    figure.update_xaxes(**axes.step_axis(whole.steps, part.x))
    drawn = np.concatenate([line.values for line in lines]) if lines else np.zeros(0)
    figure.update_yaxes(**axes.value_axis(spec, drawn, part.y))
    style.note_marks(figure, drawn, found, theme)
    mk.add_strip(figure, strip, theme)
    figure.update_layout(showlegend=bool(strip), uirevision=f"{run.name}{metric}", hovermode="closest")
    return figure


def _subtitle(run: Run, whole: Cells, drawn: int, part: Window) -> str:
    steps, layers = len(whole.steps), int(whole.recorded.sum())
    thinned = f", {steps:,} steps in {LINE_POINTS} points, extremes kept" if steps > LINE_POINTS and part == ALL else ""
    count = "one layer" if layers == 1 else f"{layers:,} layers"
    chosen = "" if drawn == layers else f"; {drawn} are drawn: first, last, least, greatest and evenly between"
    return f"{wording.short(run.name, 48)}{thinned}, {count}{chosen}"


def _add_line(figure: go.Figure, line: Line, colour: str) -> None:
    name = wording.short(line.layer, 60)
    name = wording.short(line.layer, 60)
    figure.add_scatter(
        x=compact(line.steps),
        y=compact(line.values),
        line={"color": colour, "width": 1.3},
        marker_color=colour,
        **point_style(line.values),
        name=name,
        showlegend=False,
        hovertemplate=f"{name}, depth {line.depth}<br>step %{{x}}<br>%{{y:.4g}}<extra></extra>",
    )


def _add_marks(figure: go.Figure, marked: pd.DataFrame, strip: Iterable[mk.Mark], theme: str) -> None:
    listed = list(strip)
    for mark in listed:
        rows = marked[marked["mark"] == mark.code]
        text = [_mark_text(*row) for row in rows[["step", "layers", "low", "high"]].to_numpy(int).tolist()]
        mk.add_symbols(figure, listed, mark, rows["step"], text, theme=theme)


def _mark_text(step: int, layers: int, low: int, high: int) -> str:
    where = f"depth {low} to {high}" if high > low else f"depth {low}"
    return f"step {step}<br>{layers} {'layers' if layers > 1 else 'layer'}, {where}"


def _add_depth_bar(figure: go.Figure, lines: int, last: int, theme: str) -> None:
    """Explain the colours of the lines by a bar, for a legend of a hundred layers cannot be read."""
    if lines < 2:
        return
    bar = axes.colour_bar("Depth") | axes.depth_ticks(last)
    scale = {"colorscale": style.depth_scale(theme), "cmin": 1, "cmax": last}
    marker = {"color": [1], "showscale": True, "colorbar": bar, **scale}
    figure.add_scatter(x=[None], y=[None], mode="markers", marker=marker, showlegend=False, hoverinfo="skip")
