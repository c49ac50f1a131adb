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
from gradscope.figures.decimate import LINE_POINTS, broken, column_of, line_points, point_style
from gradscope.figures.layer_step import heights_of
from gradscope.figures.values import Grid, grid, metric_of, recorded_steps

if TYPE_CHECKING:
    from gradscope.runs import Run

STRIP_COLUMNS = 150


@dataclass(frozen=True)
class Line:
    """One line as drawn; NaN breaks it where a value without a place on the axis lies in between."""

    depth: int
    layer: str
    steps: NDArray[np.float64]
    values: NDArray[np.float64]


def timeline_frame(run: Run, metric: str, points: int = LINE_POINTS) -> list[Line]:
    """Return the lines of a metric, at most ``points`` values each (extremes kept) and the breaks.

    Layers that never recorded the metric have no line.
    """
    log = metric_of(run, metric).scale == "log"
    data = grid(run, metric)
    heights, codes = heights_of(data, log), data.codes(log)
    return [
        _line(data, row, heights[row], codes[row], points) for row in np.flatnonzero(data.present.any(axis=1)).tolist()
    ]


def _line(data: Grid, row: int, heights: NDArray[np.float64], codes: NDArray[np.int8], points: int) -> Line:
    chosen = line_points(data.steps, heights, points)
    after = broken(chosen, codes) + 1
    steps = np.insert(data.steps[chosen].astype(np.float64), after, np.nan)
    values = np.insert(data.values[row, chosen], after, np.nan)
    return Line(int(data.depths[row]), data.names[row], steps, values)


def marks_frame(run: Run, metric: str, columns: int = STRIP_COLUMNS) -> pd.DataFrame:
    """Return the values without a place on the axis, gathered in at most ``columns`` columns of steps.

    Returns:
        Columns mark, step (the first with such a value in its column), layers (how many layers have one) and
        low, high (the least and greatest depth among them).
    """
    log = metric_of(run, metric).scale == "log"
    data = grid(run, metric)
    codes = data.codes(log)
    rows, steps = np.nonzero(codes > mk.PLAIN)
    frame = pd.DataFrame(
        {
            "mark": codes[rows, steps],
            "column": column_of(len(data.steps), columns)[steps],
            "step": data.steps[steps],
            "depth": data.depths[rows],
        }
    )
    groups = frame.groupby(["mark", "column"])
    found = groups.agg(step=("step", "min"), layers=("depth", "nunique"), low=("depth", "min"), high=("depth", "max"))
    return found.reset_index().drop(columns="column")


def timeline(run: Run, metric: str = "output_grad_norm", *, theme: str = "light") -> go.Figure:
    """Draw a metric over steps, one line per layer, coloured by depth.

    Args:
        run: A run.
        metric: Name of a recorded metric.
        theme: ``light`` or ``dark``.
    """
    spec = metric_of(run, metric)
    heading = f"{wording.label(spec.label)} over steps"
    if not recorded_steps(run, metric):
        return style.message(heading, f"run {run.name!r} has no recorded step of metric {metric!r} yet", theme)
    lines, marked = timeline_frame(run, metric), marks_frame(run, metric)
    found = mk.kinds([marked["mark"].to_numpy(np.int8)])
    text = f"{wording.short(run.name, 48)}, {'one layer' if len(lines) == 1 else f'{len(lines)} layers'}"
    figure = style.empty_figure(heading, text, theme)
    last = max((line.depth for line in lines), default=1)
    colours = style.depth_colours(last, theme)
    for line in lines:
        _add_line(figure, line, colours[line.depth - 1])
    _add_marks(figure, marked, found, theme)
    _add_depth_bar(figure, len(lines), last, theme)
    figure.update_xaxes(**axes.step_axis(np.array(recorded_steps(run, metric))))
    drawn = np.concatenate([line.values for line in lines]) if lines else np.zeros(0)
    figure.update_yaxes(**axes.value_axis(spec, drawn))
    style.note_marks(figure, drawn, found, theme)
    mk.add_strip(figure, found, theme)
    figure.update_layout(showlegend=bool(found), uirevision=f"{run.name}{metric}", hovermode="closest")
    return figure


def _add_line(figure: go.Figure, line: Line, colour: str) -> None:
    figure.add_scatter(
        x=line.steps,
        y=line.values,
        line={"color": colour, "width": 1.3},
        marker_color=colour,
        **point_style(line.values),
        name=line.layer,
        showlegend=False,
        hovertemplate=f"{line.layer}, depth {line.depth}<br>step %{{x}}<br>%{{y:.4g}}<extra></extra>",
    )


def _add_marks(figure: go.Figure, marked: pd.DataFrame, found: Iterable[mk.Mark], theme: str) -> None:
    listed = list(found)
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
