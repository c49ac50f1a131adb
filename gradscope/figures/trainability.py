"""How deep a network learns: depth by weight variance, measured, with the depth scale of theory over it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from gradscope.errors import InvalidValueError
from gradscope.figures import axes, style, wording
from gradscope.figures.depth_scale import depth_scale_frame
from gradscope.figures.trainability_cells import (
    PROGRESS,
    VALUES,
    Setting,
    common_setting,
    edges,
    has_place,
    shared_settings,
    trainability_frame,
)
from gradscope.figures.values import RunsLike, named
from gradscope.theory import DEPTH_SCALES

HEADING = "How deep a network learns"
LABELS = {"test_accuracy": "Accuracy, held out", "accuracy": "Accuracy", PROGRESS: "Share of the first loss overcome"}


def trainability_map(
    runs: RunsLike, *, value: str | None = None, theory: bool = True, theme: str = "light"
) -> go.Figure:
    """Draw what networks of a depth and a weight variance reach, and the depth scale of mean-field theory over it.

    Two inputs become alike (or unlike) with depth at the rate exp(-1/xi_c) per layer; a network much deeper than xi_c
    cannot tell them apart, nor its gradient what to do. Schoenholz et al. 2017 (arXiv 1611.01232) find networks of tanh
    on MNIST trainable up to about 6 xi_c.

    Args:
        runs: Runs of a sweep over ``depth`` and ``weight_var``, such as those of ``gradscope.lab.train``.
        value: Name of a scalar, or ``progress``; see ``trainability_frame``.
        theory: Whether to draw xi_c, 6 xi_c and the edge of chaos; needs one ``activation`` and one ``bias_var`` in
            the configurations, without normalization or skips.
        theme: ``light`` or ``dark``.

    Raises:
        InvalidValueError: No run has a depth and a weight variance, or no value.
    """
    pairs = named(runs)
    frame = trainability_frame(dict(pairs), value)
    if frame.empty:
        raise InvalidValueError("no run has numbers for 'depth' and 'weight_var' in its configuration")
    if frame["value"].isna().all():
        raise InvalidValueError(f"no run has a value of {frame.attrs['value']!r}")
    inside = [run for _, run in pairs if has_place(run)]
    shown = wording.label(LABELS.get(frame.attrs["value"], frame.attrs["value"]))
    left_out = len(pairs) - len(inside)
    aside = f"; {left_out} {'run' if left_out == 1 else 'runs'} left out" if left_out else ""
    lines = [", ".join([shown, *shared_settings(inside)]) + aside]
    figure = style.empty_figure(HEADING, "", theme)
    across, up = np.unique(frame["weight_var"]), np.unique(frame["depth"]).astype(np.float64)
    _add_cells(figure, frame, across, up, shown)
    if theory:
        setting, why = common_setting(inside)
        if setting is not None:
            _add_scale(figure, setting, edges(across)[[0, -1]], theme)
            why = f"{setting.activation}, bias variance {wording.number(setting.bias_var)}"
        lines.append(why)
    figure.update_layout(title_subtitle_text="<br>".join(lines), margin={"t": 46 + 18 * len(lines), "b": 84})
    titles = {"x": "Weight variance (σ<sub>w</sub>², times fan in)", "y": "Depth (hidden layers)"}
    figure.update_xaxes(title_text=titles["x"], showgrid=False, range=edges(across)[[0, -1]].tolist())
    figure.update_yaxes(title_text=titles["y"], showgrid=False, range=edges(up)[[0, -1]].tolist())
    figure.update_yaxes(exponentformat="none")
    return figure


def _add_cells(
    figure: go.Figure, frame: pd.DataFrame, across: NDArray[np.float64], up: NDArray[np.float64], shown: str
) -> None:
    cells = frame.set_index(["depth", "weight_var"])
    places = [[(depth, variance) for variance in across] for depth in up]
    share = frame.attrs["value"] in VALUES
    figure.add_heatmap(
        x=edges(across),
        y=edges(up),
        z=[[float(cells["value"].get(place, math.nan)) for place in row] for row in places],
        colorscale=style.SEQUENTIAL,
        colorbar=axes.colour_bar(shown),
        # Dash hands on the custom data of a clicked cell only where it is a plain string.
        customdata=[[str(cells["run"].get(place, "")) for place in row] for row in places],
        text=[[_hover(cells, place, shown) for place in row] for row in places],
        hovertemplate="%{text}<extra></extra>",
        hoverongaps=False,
        **({"zmin": 0.0, "zmax": 1.0} if share else {}),
    )


def _hover(cells: pd.DataFrame, place: tuple[float, float], shown: str) -> str:
    if place not in cells.index:
        return ""
    depth, variance = place
    runs, value = int(cells["runs"].get(place, 0)), float(cells["value"].get(place, math.nan))
    several = f"<br>median of {runs} runs" if runs > 1 else ""
    return f"depth {depth:g}, weight variance {wording.number(variance)}<br>{shown} {wording.number(value)}{several}"


def _add_scale(figure: go.Figure, setting: Setting, between: NDArray[np.float64], theme: str) -> None:
    """Draw xi_c and its multiple, black with a pale halo, for they cross bright and dark cells."""
    frame = depth_scale_frame(setting.activation, setting.bias_var, float(between[0]), float(between[1]))
    several = f"{DEPTH_SCALES:g} ξ<sub>c</sub> of theory"
    for factor, dash, name in ((DEPTH_SCALES, "solid", several), (1.0, "dot", "ξ<sub>c</sub>")):
        drawn: dict[str, Any] = {"x": frame["weight_var"], "y": factor * frame["xi_c"], "mode": "lines"}
        halo, line = {"color": "#ffffff", "width": 5}, {"color": "#000000", "width": 2, "dash": dash}
        hover = "%{y:.3g} layers<extra>" + name + "</extra>"
        figure.add_scatter(**drawn, line=halo, opacity=0.8, showlegend=False, hoverinfo="skip")
        figure.add_scatter(**drawn, line=line, name=name, showlegend=False, hovertemplate=hover)
        # The legend lies on the paper, which is dark in a dark theme.
        shown = {"color": style.ink(theme).text, "width": 2, "dash": dash}
        figure.add_scatter(x=[None], y=[None], mode="lines", line=shown, name=name, showlegend=True, hoverinfo="skip")
