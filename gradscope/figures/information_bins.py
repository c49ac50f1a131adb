"""The information plane by several settings of the estimators side by side: what of it is theirs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from gradscope.errors import InvalidTypeError, InvalidValueError
from gradscope.figures import style, wording
from gradscope.figures.decimate import spread

_NUMBERS = ("x", "x_low", "x_high", "y", "y_low", "y_high", "x_most", "y_most")
NEEDED = ("step", "depth", "layer", "setting", *_NUMBERS, "n", "unit")
MOST_STEPS, MOST_LAYERS = 100, 12


def information_planes(frame: pd.DataFrame, *, theme: str = "light") -> go.Figure:
    """Draw the paths of layers through the information plane, one panel for each setting of the estimators.

    Dashed lines are the most that an estimate can be, ln n and H(Y); bars at the end of a path are its intervals there.
    What differs between panels of one row is the share of the estimators; what stays is the network's.

    Args:
        frame: Frames of ``gradscope.information.planes`` at several steps, with their column ``step``; of several
            networks with a column ``run``, which get a row of panels each.
        theme: ``light`` or ``dark``.

    Raises:
        InvalidTypeError: It is no frame.
        InvalidValueError: It lacks columns, or has no rows.
    """
    _check(frame)
    named = frame if "run" in frame else frame.assign(run="")
    runs, settings = (list(dict.fromkeys(named[one].astype(str))) for one in ("run", "setting"))
    figure = make_subplots(
        len(runs),
        len(settings),
        shared_xaxes=True,
        shared_yaxes=True,
        column_titles=[wording.label(one, 30) for one in settings],
        horizontal_spacing=0.02,
        vertical_spacing=0.06,
    )
    depths = np.sort(named["depth"].unique())[spread(named["depth"].nunique(), MOST_LAYERS)]
    colours = dict(zip(depths.tolist(), style.depth_colours(len(depths), theme), strict=True))
    for (run, setting), part in named.groupby([named["run"].astype(str), named["setting"].astype(str)], sort=False):
        place = {"row": runs.index(str(run)) + 1, "col": settings.index(str(setting)) + 1}
        _add_limits(figure, part, place, theme)
        for depth, colour in colours.items():
            path = part[part["depth"] == depth].sort_values("step")
            if len(path):
                _add_path(figure, path, colour, place, theme, legend=place == {"row": 1, "col": 1})
    _dress(figure, named, runs, theme)
    return figure


def _check(frame: object) -> None:
    if not isinstance(frame, pd.DataFrame):
        raise InvalidTypeError(f"frame is a DataFrame of gradscope.information.planes, not {type(frame).__name__}")
    missing = [one for one in NEEDED if one not in frame]
    if missing:
        raise InvalidValueError(f"the frame lacks the column {missing[0]!r}; there are: {', '.join(map(str, frame))}")
    if frame.empty:
        raise InvalidValueError("the frame has no rows")


def _add_limits(figure: go.Figure, part: pd.DataFrame, place: dict[str, int], theme: str) -> None:
    line = {"dash": "dash", "width": 1, "color": style.ink(theme).faint}
    across, up = float(part["x_most"].max()), float(part["y_most"].max())
    figure.add_scatter(
        x=[0, across, across],
        y=[up, up, 0],
        mode="lines",
        line=line,
        showlegend=place == {"row": 1, "col": 1},
        name="most possible: ln n across, H(Y) up",
        hovertemplate=f"ln n = {across:.4g}, H(Y) = {up:.4g} {part['unit'].iloc[0]}<extra>most possible</extra>",
        **place,
    )


def _add_path(
    figure: go.Figure, path: pd.DataFrame, colour: str, place: dict[str, int], theme: str, *, legend: bool
) -> None:
    path = path.iloc[spread(len(path), MOST_STEPS)]
    depth, layer = int(path["depth"].iloc[0]), wording.short(str(path["layer"].iloc[0]), 30)
    sizes, fills = np.full(len(path), 4), np.full(len(path), style.ink(theme).paper, object)
    sizes[-1], fills[-1] = 9, colour
    figure.add_scatter(
        x=path["x"],
        y=path["y"],
        mode="lines+markers",
        name=f"depth {depth}",
        legendgroup=f"{depth}",
        showlegend=legend,
        line={"color": colour, "width": 1},
        marker={"size": sizes, "color": fills, "line": {"color": colour, "width": 1}},
        error_x=_end_bar(path, "x", colour),
        error_y=_end_bar(path, "y", colour),
        customdata=path["step"],
        hovertemplate=f"{layer}, depth {depth}<br>step %{{customdata:,}}<br>%{{x:.4g}}, %{{y:.4g}}<extra></extra>",
        **place,
    )


def _end_bar(path: pd.DataFrame, axis: str, colour: str) -> dict[str, object]:
    """Return error bars that show the interval of the last point alone."""
    value, low, high = (path[name].to_numpy(np.float64) for name in (axis, f"{axis}_low", f"{axis}_high"))
    up, down = np.nan_to_num(high - value), np.nan_to_num(value - low)
    up[:-1] = down[:-1] = 0.0
    return {"type": "data", "array": up, "arrayminus": down, "color": colour, "thickness": 0.8, "width": 0}


def _dress(figure: go.Figure, named: pd.DataFrame, runs: list[str], theme: str) -> None:
    unit, steps = str(named["unit"].iloc[0]), named["step"]
    counts = " and ".join(f"{one:,}" for one in sorted(named["n"].unique(), reverse=True))
    span = f"steps {steps.min():,} to {steps.max():,}" if steps.nunique() > 1 else f"step {steps.iloc[0]:,}"
    plain: dict[str, Any] = {"rangemode": "tozero", "matches": None}
    figure.update_layout(
        template=style.template(theme),
        title={
            "text": "Information plane by estimator",
            "subtitle": {"text": f"{span} (end: filled), n = {counts}; what differs between columns is the estimator"},
        },
        margin={"t": 96, "b": 96},
    )
    figure.update_annotations(font={"size": 13})
    across, up = (1.06 * float(named[f"{one}_most"].max()) for one in ("x", "y"))
    figure.update_xaxes(range=[-0.03 * across, across], **plain)
    figure.update_yaxes(range=[-0.06 * up, up], **plain)
    figure.update_xaxes(title_text=f"I(X;T) ({unit})", row=len(runs))
    for row, run in enumerate(runs, start=1):
        title = f"{wording.label(run, 20)}: I(T;Y)" if run else "I(T;Y)"
        figure.update_yaxes(title_text=f"{title} ({unit})", row=row, col=1)
