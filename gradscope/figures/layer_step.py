"""A metric over layers and steps at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from gradscope.figures import axes, style, wording
from gradscope.figures import marks as mk
from gradscope.figures.cells import Cells, cells
from gradscope.figures.decimate import COLUMNS, ROWS, bin_columns, bin_rows, column_of
from gradscope.figures.skipped import add_skipped, skipped_frame
from gradscope.figures.values import is_empty, metric_of
from gradscope.figures.window import ALL, Range, Window
from gradscope.spec import MetricSpec

if TYPE_CHECKING:
    from gradscope.runs import Run

SKIPPED_COLUMNS = 150
HIDDEN = "rgba(0,0,0,0)"
LEAST_POWER = -37
"""Power of ten that a float of four bytes still holds in full."""


@dataclass(frozen=True)
class HeatmapFrame:
    """What a heatmap draws.

    Attributes:
        steps: First recorded step of each column, shape (columns,).
        depths: Depth of each row, the least where it stands for several layers, shape (rows,).
        names: Name of the layer call of each row, of the first and the last where it stands for several.
        heights: log10 of the value for a log metric, else the value; float32, NaN where marked or absent,
            shape (rows, columns).
        codes: Code of the gravest mark in each cell, 0 for none, -1 where nothing was recorded.
        places: Place of each column's first step among all recorded ones, shape (columns,).
        last: Greatest depth of each row, shape (rows,).
    """

    steps: NDArray[np.int64]
    depths: NDArray[np.int64]
    names: list[str]
    heights: NDArray[np.float32]
    codes: NDArray[np.int8]
    places: NDArray[np.intp]
    last: NDArray[np.int64]


def heatmap_frame(
    run: Run, metric: str, columns: int = COLUMNS, rows: int = ROWS, window: Window = ALL
) -> HeatmapFrame:
    """Return the cells of a heatmap, neighbouring steps merged into ``columns`` and layers into ``rows`` at most.

    A merged cell keeps the value farthest from its layer's median and the gravest mark, so that a spike or
    a single NaN stays visible.
    """
    whole = cells(run, metric)
    part = whole.between(_steps_in(whole, window.x), window.y)
    heights, codes, starts = bin_columns(part.heights, part.codes, columns)
    heights, codes, firsts = bin_rows(heights, codes, rows)
    lasts = np.append(firsts[1:], len(part.depths)) - 1
    names = [_joined(part.names[first], part.names[last]) for first, last in zip(firsts, lasts, strict=True)]
    return HeatmapFrame(
        part.steps[starts], part.depths[firsts], names, heights, codes, part.first + starts, part.depths[lasts]
    )


def to_scale(whole: Cells) -> bool:
    """Tell whether the recorded steps lie evenly enough for columns as wide as the way to the next one."""
    starts = np.unique(column_of(len(whole.steps)), return_index=True)[1]
    return axes.even(whole.steps[starts])


def _steps_in(whole: Cells, seen: Range | None) -> Range | None:
    """Return the steps in a range of the axis, which counts columns where they would not be to scale."""
    if seen is None or to_scale(whole):
        return seen
    low, high = (int(np.clip(round(end), 0, len(whole.steps) - 1)) for end in seen)
    return float(whole.steps[low]), float(whole.steps[high])


def _joined(first: str, last: str) -> str:
    return wording.short(first, 40) if first == last else f"{wording.short(first, 24)} to {wording.short(last, 24)}"


def heatmap(
    run: Run, metric: str = "output_grad_norm", *, theme: str = "light", window: Window | None = None
) -> go.Figure:
    """Draw a metric as colour over step (across) and depth (up).

    Exact zeros (on a log scale), infinities and NaN have flat colours of their own, named in the legend;
    cells in which nothing was recorded stay empty. Where the recorded steps lie unevenly, every one gets a
    column of the same width, in order: a column as wide as the way to the next step would show values where
    none were recorded. There are at most 500 columns and 100 rows, extremes and marks kept. Steps that the optimizer
    did not take have marks below the axis.

    Args:
        run: A run.
        metric: Name of a recorded metric.
        theme: ``light`` or ``dark``.
        window: The part that is seen, drawn in as much detail as fits; where the columns are not to scale, its `x`
            counts recorded steps.
    """
    spec, part = metric_of(run, metric), window or ALL
    heading = f"{wording.label(spec.label)} over depth and step"
    if is_empty(run, metric):
        return style.message(heading, f"run {run.name!r} has no recorded step of metric {metric!r} yet", theme)
    whole, frame = cells(run, metric), heatmap_frame(run, metric, window=part)
    scale = to_scale(whole)
    figure = style.empty_figure(heading, _subtitle(run, whole, frame, part, scale), theme)
    x = frame.steps if scale else frame.places
    _add_cells(figure, frame, x, spec, theme)
    for mark in mk.kinds([frame.codes]):
        _add_flat(figure, frame, x, mark, theme)
    _axes(figure, whole, frame, part, scale)
    _add_skipped(figure, run, whole, part, scale, theme)
    figure.update_layout(uirevision=f"{run.name}{metric}", showlegend=True)
    return figure


def _subtitle(run: Run, whole: Cells, frame: HeatmapFrame, part: Window, scale: bool) -> str:
    recorded, layers = len(whole.steps), len(whole.depths)
    steps = "one recorded step" if recorded == 1 else f"{recorded:,} recorded steps"
    merged = [f" in {len(frame.steps)} columns"] if len(frame.steps) < recorded else []
    merged += [f", {layers:,} layers in {len(frame.depths)} rows"] if len(frame.depths) < layers else []
    drawn = f"{''.join(merged)}, extremes kept" if merged and part == ALL else ""
    uneven = "" if scale or recorded < 2 else ", at uneven distances: axis not to scale"
    return f"{wording.short(run.name, 48)}, {steps}{drawn}{uneven}"


def _add_cells(figure: go.Figure, frame: HeatmapFrame, x: NDArray[np.int64], spec: MetricSpec, theme: str) -> None:
    log = spec.scale == "log"
    shown, values = "%{z:.4g}", None
    if log:
        values = _values(frame.heights)
        shown = "10<sup>%{z:.2f}</sup>" if values is None else "%{customdata:.3~g}"
    figure.add_heatmap(
        x=x,
        y=frame.depths,
        z=frame.heights,
        yaxis="y3",
        colorscale=style.SEQUENTIAL,
        colorbar=_colour_bar(frame.heights, axes.axis_title(spec), log),
        customdata=values,
        hovertemplate="%{y}<br>step %{x}<br>" + shown + "<extra></extra>",
        hoverongaps=False,
        showscale=bool(np.isfinite(frame.heights).any()),
        **_colour_range(frame.heights, spec),
    )
    # The axis on the left belongs to this one; the cells are drawn on one whose labels name the layers.
    figure.add_scatter(x=[None], y=[None], mode="markers", showlegend=False, hoverinfo="skip")


def _values(heights: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Return the values of logarithms, which read better than these; None where four bytes do not hold them."""
    finite = heights[np.isfinite(heights)]
    if len(finite) and (finite.min() < LEAST_POWER or finite.max() > -LEAST_POWER):
        return None
    return np.power(np.float32(10), heights, dtype=np.float32)


def _colour_range(heights: NDArray[np.float32], spec: MetricSpec) -> dict[str, float]:
    """Give a constant metric a range, for which plotly would otherwise show a bar without numbers: its bounds."""
    plain = heights[np.isfinite(heights)]
    if len(plain) and plain.min() == plain.max():
        low, high = spec.bounds
        if spec.scale == "linear" and low is not None and high is not None:
            return {"zmin": low, "zmax": high}
        return {"zmin": float(plain[0]) - 0.5, "zmax": float(plain[0]) + 0.5}
    return {}


def _colour_bar(heights: NDArray[np.float32], title: str, log: bool) -> dict[str, object]:
    bar: dict[str, object] = axes.colour_bar(title)
    plain = heights[np.isfinite(heights)]
    if log and len(plain):
        wide = 0.5 if plain.min() == plain.max() else 0.0
        bar |= axes.log_ticks(float(plain.min()) - wide, float(plain.max()) + wide)
    return bar


def _add_flat(figure: go.Figure, frame: HeatmapFrame, x: NDArray[np.int64], mark: mk.Mark, theme: str) -> None:
    """Paint the cells of one mark in its flat colour, with a square in the legend."""
    flat = mk.colour(mark, theme)
    marked = frame.codes == mark.code
    up, across = _around(marked.any(axis=1)), _around(marked.any(axis=0))
    figure.add_heatmap(
        x=x[across],
        y=frame.depths[up],
        z=np.where(marked[up, across], np.float32(1), np.float32(np.nan)),
        yaxis="y3",
        colorscale=[[0, flat], [1, flat]],
        showscale=False,
        name=mark.label,
        hovertemplate="%{y}<br>step %{x}<extra>" + mark.label + "</extra>",
        hoverongaps=False,
    )
    mk.add_legend(figure, mark, "square", theme)


def _around(hit: NDArray[np.bool_]) -> slice:
    """Return the range of the hits and one place more at either end, which tells plotly how wide a cell is."""
    places = np.flatnonzero(hit)
    return slice(max(0, int(places[0]) - 1), int(places[-1]) + 2)


def _axes(figure: go.Figure, whole: Cells, frame: HeatmapFrame, part: Window, scale: bool) -> None:
    last = int(whole.depths[-1]) if len(whole.depths) else 1
    across = axes.few_steps(whole.steps) if scale else axes.column_axis(whole.steps, frame.places, part.x)
    figure.update_xaxes(title_text="Step", showgrid=False, ticks="outside", **across)
    labels = {str(row[0]): _row_text(*row) for row in zip(frame.depths, frame.last, frame.names, strict=True)}
    plain: dict[str, Any] = {"exponentformat": "none", "separatethousands": False, "ticks": "", "showgrid": False}
    edge = {"range": [float(whole.depths[0]) - 0.5, last + 0.5]} if len(whole.depths) else {}
    figure.update_layout(
        yaxis={
            "title": {"text": "Depth (1 = first layer)"},
            "showgrid": False,
            **axes.depth_ticks(last, part.y),
            **edge,
        },
        yaxis3={"overlaying": "y", "matches": "y", "showticklabels": False, "labelalias": labels, **plain, **edge},
    )


def _row_text(depth: int, last: int, name: str) -> str:
    return f"{name}, depth {depth}" if depth == last else f"{name}, depth {depth} to {last}"


def _add_skipped(figure: go.Figure, run: Run, whole: Cells, part: Window, scale: bool, theme: str) -> None:
    frame = skipped_frame(run, SKIPPED_COLUMNS, _steps_in(whole, part.x))
    if frame.empty:
        return
    x = None if scale else np.searchsorted(whole.steps, frame["step"].to_numpy(np.int64))
    add_skipped(figure, frame, [mk.SKIPPED], theme, x)
    mk.add_strip(figure, [mk.SKIPPED], theme)
