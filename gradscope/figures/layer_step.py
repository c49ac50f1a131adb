"""A metric over layers and steps at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from gradscope.figures import axes, style, wording
from gradscope.figures import marks as mk
from gradscope.figures.decimate import COLUMNS, bin_columns
from gradscope.figures.values import Grid, grid, metric_of, recorded_steps
from gradscope.spec import MetricSpec

if TYPE_CHECKING:
    from gradscope.runs import Run


@dataclass(frozen=True)
class HeatmapFrame:
    """What a heatmap draws.

    Attributes:
        steps: First recorded step of each column, shape (columns,).
        depths: Depth of each row, shape (layers,).
        names: Name of the layer call of each row.
        heights: log10 of the value for a log metric, else the value; float32, NaN where marked or absent,
            shape (layers, columns).
        codes: Code of the gravest mark in each cell, 0 for none, -1 where nothing was recorded.
    """

    steps: NDArray[np.int64]
    depths: NDArray[np.int64]
    names: list[str]
    heights: NDArray[np.float32]
    codes: NDArray[np.int8]


def heights_of(data: Grid, log: bool) -> NDArray[np.float64]:
    """Return values as an axis measures them: log10 on a log axis, NaN where it has no place for them."""
    plain = np.where(data.codes(log) == mk.PLAIN, data.values, np.nan)
    return np.log10(plain) if log else plain


def heatmap_frame(run: Run, metric: str, columns: int = COLUMNS) -> HeatmapFrame:
    """Return the cells of a heatmap, neighbouring steps merged into at most ``columns`` columns.

    A merged cell keeps the value farthest from the layer's median and the gravest mark, so that a spike or
    a single NaN stays visible.
    """
    log = metric_of(run, metric).scale == "log"
    data = grid(run, metric)
    heights, codes, starts = bin_columns(heights_of(data, log), data.codes(log), columns)
    return HeatmapFrame(data.steps[starts], data.depths, data.names, heights, codes)


def heatmap(run: Run, metric: str = "output_grad_norm", *, theme: str = "light") -> go.Figure:
    """Draw a metric as colour over step (across) and depth (up).

    Exact zeros (on a log scale), infinities and NaN have flat colours of their own, named in the legend;
    cells in which nothing was recorded stay empty. Where the recorded steps lie unevenly, every one gets a
    column of the same width, in order: a column as wide as the way to the next step would show values where
    none were recorded.

    Args:
        run: A run.
        metric: Name of a recorded metric.
        theme: ``light`` or ``dark``.
    """
    spec = metric_of(run, metric)
    heading = f"{wording.label(spec.label)} over depth and step"
    if not recorded_steps(run, metric):
        return style.message(heading, f"run {run.name!r} has no recorded step of metric {metric!r} yet", theme)
    frame = heatmap_frame(run, metric)
    recorded = len(run.steps(metric))
    figure = style.empty_figure(heading, _subtitle(run, frame, recorded), theme)
    _add_cells(figure, frame, spec, theme)
    for mark in mk.kinds([frame.codes]):
        _add_flat(figure, frame, mark, theme)
    _axes(figure, frame)
    figure.update_layout(uirevision=f"{run.name}{metric}", showlegend=True)
    return figure


def _subtitle(run: Run, frame: HeatmapFrame, recorded: int) -> str:
    merged = "" if recorded == len(frame.steps) else f" in {len(frame.steps)} columns, extremes kept"
    uneven = "" if axes.even(frame.steps) or len(frame.steps) < 2 else ", at uneven distances: axis not to scale"
    steps = "one recorded step" if recorded == 1 else f"{recorded} recorded steps"
    return f"{wording.short(run.name, 48)}, {steps}{merged}{uneven}"


def _add_cells(figure: go.Figure, frame: HeatmapFrame, spec: MetricSpec, theme: str) -> None:
    log = spec.scale == "log"
    shown = "10<sup>%{z:.2f}</sup>" if log else "%{z:.4g}"
    figure.add_heatmap(
        x=frame.steps,
        y=frame.depths,
        z=frame.heights,
        colorscale=style.SEQUENTIAL,
        colorbar=_colour_bar(frame.heights, axes.axis_title(spec), log),
        customdata=_names(frame),
        hovertemplate="%{customdata}, depth %{y}<br>step %{x}<br>" + shown + "<extra></extra>",
        hoverongaps=False,
        showscale=bool(np.isfinite(frame.heights).any()),
        **_colour_range(frame.heights, spec),
    )


def _names(frame: HeatmapFrame) -> NDArray[np.object_]:
    return np.broadcast_to(np.array(frame.names, dtype=object)[:, None], frame.heights.shape)


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


def _add_flat(figure: go.Figure, frame: HeatmapFrame, mark: mk.Mark, theme: str) -> None:
    """Paint the cells of one mark in its flat colour, with a square in the legend."""
    flat = mk.colour(mark, theme)
    figure.add_heatmap(
        x=frame.steps,
        y=frame.depths,
        z=np.where(frame.codes == mark.code, np.float32(1), np.float32(np.nan)),
        colorscale=[[0, flat], [1, flat]],
        showscale=False,
        name=mark.label,
        customdata=_names(frame),
        hovertemplate="%{customdata}, depth %{y}<br>step %{x}<extra>" + mark.label + "</extra>",
        hoverongaps=False,
    )
    mk.add_legend(figure, mark, "square", theme)


def _axes(figure: go.Figure, frame: HeatmapFrame) -> None:
    last = int(frame.depths[-1]) if len(frame.depths) else 1
    scale = {} if axes.even(frame.steps) else {"type": "category", "nticks": 10, "tickangle": 0}
    figure.update_xaxes(title_text="Step", showgrid=False, ticks="outside", **scale)
    figure.update_yaxes(title_text="Depth (1 = first layer)", showgrid=False, **axes.depth_ticks(last))
