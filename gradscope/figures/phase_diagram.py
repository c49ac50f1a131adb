"""Order and chaos over the variances of weights and biases, and where the layers of a run lie."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from gradscope import theory
from gradscope.errors import GradscopeError, InvalidValueError
from gradscope.figures import axes, style, wording
from gradscope.figures.decimate import spread
from gradscope.figures.phases import (
    CELLS,
    edge_frame,
    has_skips,
    layer_points_frame,
    main_activation,
    spaced,
)
from gradscope.figures.values import one_run
from gradscope.figures.window import Range

if TYPE_CHECKING:
    from gradscope.runs import Run

HEADING = "Phases of signal propagation"
HEIGHTS = {"showgrid": False, "zeroline": False}
EDGE = "edge of chaos, χ = 1"
EDGE_COLOURS = {"light": "#000000", "dark": "#009E73"}
"""The plane is white there in either theme, the legend lies on the paper: the colour is one that both show."""
MOST_POINTS = 400
REACH = (0.15, 0.5)
"""Decades of the factor per layer to which the colours reach at least and at most: beyond, few layers are too many."""
WIDE = 12.0
"""Ratio of greatest and least weight variance above which their axis is logarithmic."""
LEAST_SIZE = 8.0
GROWTH = (4.0, 20.0)
"""Pixels by which the marker of a layer is wider than that of the layer before, and of the last than the first."""
ROOM = 0.07
"""Part of the plot's height left below a bias variance of zero, where layers without biases lie."""


def phase_diagram(
    run: Run | None = None,
    step: int | None = None,
    *,
    activation: str | None = None,
    weight_var: Range | None = None,
    bias_var: Range | None = None,
    layer_bias_var: float | None = None,
    theme: str = "light",
) -> go.Figure:
    """Draw the factor of the gradient per layer over the variances of weights and biases, and the edge of chaos.

    The colour is sqrt(chi) at the fixed point of the signal's length: below 1 (blue) two inputs become alike with depth
    and the gradient vanishes, above 1 (red) they become unlike and it explodes; the line is chi = 1 (Poole et al. 2016,
    Schoenholz et al. 2017). It holds for plain chains, without normalization and skips. The hidden layers of a run lie
    at (weight_rms^2 fan_in, bias variance), in the colour of their depth.

    Args:
        run: A run that recorded ``weight_rms``; None draws the plane alone.
        step: A recorded step; the first where None.
        activation: Name of an activation; that of most layers where None, ``tanh`` without a run.
        weight_var: Least and greatest weight variance; chosen to show the layers and the edge of chaos where None.
        bias_var: Least and greatest bias variance.
        layer_bias_var: Bias variance of the layers, where neither the run nor its configuration says it.
        theme: ``light`` or ``dark``.

    Raises:
        UnknownNameError: No such activation, or the run did not record ``weight_rms``.
        InvalidValueError: The step is not recorded, or a range is empty or negative.
    """
    if run is not None:
        one_run(run)
    points = layer_points_frame(run, step, layer_bias_var) if run is not None else pd.DataFrame()
    chosen = activation or (main_activation(points) if len(points) else "tanh")
    if chosen == "?":
        return style.message(HEADING, "the activation functions of this run were not recognised", theme)
    theory.activation_of(chosen)
    inside = points[(points["activation"] == chosen) & (points["norm"] == "none")] if len(points) else points
    up = bias_var or _up(inside)
    across = weight_var or _across(inside, chosen, up)
    for name, (low, high) in {"weight_var": across, "bias_var": up}.items():
        if not 0 <= low < high < math.inf:
            raise InvalidValueError(f"{name} must go from a number of at least 0 to a greater one, not {(low, high)}")
    log = across[0] > 0 and across[1] / across[0] > WIDE
    figure = style.empty_figure(HEADING, "<br>".join(_subtitle(run, step, chosen, points, inside)), theme)
    _add_plane(figure, theory.phase_diagram(chosen, spaced(across, log, CELLS), spaced(up, False, CELLS)))
    _add_edge(figure, edge_frame(chosen, across, up, log), theme)
    if len(inside):
        _add_layers(figure, inside)
    _style(figure, across, up, log)
    return figure


def _across(points: pd.DataFrame, activation: str, up: Range) -> Range:
    """Return weight variances around the layers, the edge of chaos and the usual ones."""
    low, high = (1.0, 20.0) if activation == "sigmoid" else (0.5, 4.0)
    edge = _critical(activation, up)
    if edge:
        low = low if min(edge) > low else 0.75 * min(edge)
        high = high if max(edge) < high else 1.5 * max(edge)
    if points.empty:
        return low, high
    least, most = float(points["weight_var"].min()), float(points["weight_var"].max())
    return (low if least > low * 1.1 else max(least / 2, 1e-6)), max(high, most * 1.25)


def _critical(activation: str, up: Range) -> list[float]:
    """Return the weight variances of the edge of chaos at the least and the greatest bias variance that have one."""
    found = []
    for bias in up:
        try:
            found.append(theory.critical(activation, bias))
        except GradscopeError:
            continue
    return found


def _up(points: pd.DataFrame) -> Range:
    most = float(points["bias_var"].max()) if len(points) else 0.0
    return 0.0, max(0.2, most * 1.25)


def _subtitle(
    run: Run | None, step: int | None, activation: str, points: pd.DataFrame, inside: pd.DataFrame
) -> list[str]:
    lines = [f"{activation}, chains without normalization"]
    if run is None:
        return lines
    lines[0] = f"{wording.short(run.name, 40)}, {'first step' if step is None else f'step {step}'}; {lines[0]}"
    aside = points[~points.index.isin(inside.index)]
    if len(aside):
        pairs = zip(aside["activation"], aside["norm"], strict=True)
        kinds = sorted({wording.label(one if norm == "none" else f"{norm} norm") for one, norm in pairs})
        lines.append(f"{len(aside)} of {len(points)} hidden layers left out: {', '.join(kinds[:4])}")
    if has_skips(run):
        lines.append("this run has skips or branches: its gradient meets other factors")
    if len(inside) and not inside["known"].all():
        lines.append("bias variance not recorded: these layers are drawn at 0")
    return lines


def _add_plane(figure: go.Figure, plane: theory.PhaseDiagram) -> None:
    rate = np.sqrt(plane.chi)
    heights = np.log10(rate)
    reach = float(np.clip(np.quantile(np.abs(heights), 0.95), *REACH))
    rates = [
        one
        for one in ((0.7, 0.85, 1.0, 1.2, 1.4) if reach < 0.3 else (0.3, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0))
        if abs(math.log10(one)) <= reach
    ]
    ticks = {"tickvals": [math.log10(one) for one in rates], "ticktext": [f"{one:g}" for one in rates]}
    figure.add_heatmap(
        x=plane.weight_var,
        y=plane.bias_var,
        z=np.clip(heights, -reach, reach).astype(np.float32),
        zmin=-reach,
        zmax=reach,
        colorscale=style.DIVERGING,
        zsmooth="best",
        colorbar=axes.colour_bar("Factor per layer, towards the input") | ticks,
        customdata=np.stack([rate, plane.q], axis=-1).astype(np.float32),
        hovertemplate="weight variance %{x:.3g}, bias variance %{y:.3g}"
        "<br>gradient × %{customdata[0]:.3g} per layer<br>q = %{customdata[1]:.3g}<extra></extra>",
    )


def _add_edge(figure: go.Figure, edge: pd.DataFrame, theme: str) -> None:
    line = {"color": EDGE_COLOURS[theme], "width": 2}
    for _, rows in edge.groupby("branch"):
        figure.add_scatter(
            x=rows["weight_var"],
            y=rows["bias_var"],
            mode="lines",
            line=line,
            showlegend=False,
            hovertemplate="χ = 1: weight variance %{x:.4g}, bias variance %{y:.3g}<extra></extra>",
        )
    figure.add_scatter(x=[None], y=[None], mode="lines", line=line, name=EDGE, showlegend=bool(len(edge)))


def _add_layers(figure: go.Figure, points: pd.DataFrame) -> None:
    # Wider with depth and the widest first: layers that lie in one place are rings around each other.
    rows = points.iloc[spread(len(points), MOST_POINTS)].iloc[::-1]
    growth = min(GROWTH[0], GROWTH[1] / max(1, len(rows) - 1))
    figure.add_scatter(
        x=rows["weight_var"],
        y=rows["bias_var"],
        mode="markers",
        name="hidden layers, first (small, dark) to last (large, bright)",
        showlegend=True,
        cliponaxis=False,
        marker={
            "size": LEAST_SIZE + growth * np.arange(len(rows))[::-1],
            "color": rows["depth"],
            "colorscale": "Viridis",
            "line": {"color": "#ffffff", "width": min(1.2, growth / 4)},
        },
        customdata=np.column_stack([rows["layer"], rows["depth"]]),
        hovertemplate="%{customdata[0]}, depth %{customdata[1]}"
        "<br>weight variance %{x:.4g}, bias variance %{y:.3g}<extra></extra>",
    )


def _style(figure: go.Figure, across: Range, up: Range, log: bool) -> None:
    settings: dict[str, Any] = {"title": {"text": "Weight variance σ<sub>w</sub>² (times fan in)"}, "showgrid": False}
    if log:
        ends = (math.log10(across[0]), math.log10(across[1]))
        settings |= {"type": "log", "range": list(ends), **axes.log_axis_threes(*ends)}
    else:
        settings |= {"range": list(across)}
    lines = len(figure.layout.title.subtitle.text.split("<br>"))
    below = ROOM * (up[1] - up[0]) if up[0] == 0 else 0.0
    figure.update_layout(
        xaxis=settings,
        yaxis={"title": {"text": "Bias variance σ<sub>b</sub>²"}, "range": [up[0] - below, up[1]], **HEIGHTS},
        margin={"t": 46 + 18 * lines, "b": 84},
        showlegend=True,
    )
