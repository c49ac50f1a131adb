"""A scalar of the training loop, such as the loss, over steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from gradscope.errors import unknown_name
from gradscope.figures import axes, style, wording
from gradscope.figures import marks as mk
from gradscope.figures.decimate import broken, line_points, point_style
from gradscope.figures.values import RunsLike, at_least_one, one_run
from gradscope.figures.window import ALL, Range, Window, seen

if TYPE_CHECKING:
    from gradscope.runs import Run

POINTS = 1000


def loss_frame(run: Run, scalar: str = "loss", points: int = POINTS, between: Range | None = None) -> pd.DataFrame:
    """Return a scalar over steps as drawn: columns step, value, mark (0 for a plain value), in order of step.

    At most ``points`` plain values of those ``between`` two steps are kept, extremes among them; a row with mark -1
    and no value breaks the line where NaN or infinite values lie in between. Those are kept at most once per drawn
    point.
    UnknownNameError names the logged scalars.
    """
    one_run(run)
    scalars = run.scalars
    rows = scalars[scalars["name"] == scalar].sort_values("step")
    if rows.empty:
        raise unknown_name("scalar", scalar, sorted(set(scalars["name"])))
    rows = rows.iloc[seen(rows["step"].to_numpy(np.int64), between)]
    steps = rows["step"].to_numpy(np.int64)
    values = rows["value"].to_numpy(np.float64, na_value=np.nan)
    codes = mk.classify(values, log=False)
    chosen = line_points(steps, values, points)
    breaks = chosen[broken(chosen, codes)]
    marked = np.flatnonzero(codes > mk.PLAIN)
    marked = marked[:: max(1, -(-len(marked) // points))]
    kept = np.concatenate([chosen, marked])
    frame = pd.DataFrame({"step": steps[kept], "value": values[kept], "mark": codes[kept]})
    gaps = pd.DataFrame({"step": steps[breaks] + 0.5, "value": np.nan, "mark": np.int8(mk.ABSENT)})
    return pd.concat([frame, gaps] if len(gaps) else [frame]).sort_values("step", ignore_index=True)


def loss(run: RunsLike, scalar: str = "loss", *, theme: str = "light", window: Window | None = None) -> go.Figure:
    """Draw a logged scalar over steps, of one run or of several.

    Args:
        run: A run, or several to compare; those that did not log the scalar are left out.
        scalar: Name given to ``probe.log``.
        theme: ``light`` or ``dark``.
        window: The part that is seen, drawn in as much detail as fits.
    """
    part = window or ALL
    heading = wording.label(scalar.capitalize())
    given, runs = zip(*at_least_one(run), strict=True)
    names = wording.distinct(given)
    logged = [(index, one) for index, one in enumerate(runs) if (one.scalars["name"] == scalar).any()]
    if not any(len(one.scalars) for one in runs):
        return style.message(f"{heading} over steps", "no scalar has been logged yet", theme)
    if not logged:
        raise unknown_name("scalar", scalar, sorted({name for one in runs for name in one.scalars["name"]}))
    frames = {index: loss_frame(one, scalar, between=part.x) for index, one in logged}
    found = mk.kinds(frame["mark"].to_numpy(np.int8) for frame in frames.values())
    text = wording.short(names[0], 48) if len(runs) == 1 else f"{len(logged)} runs"
    figure = style.empty_figure(f"{heading} over steps", text, theme)
    entries = [*(names[index] for index in frames), *(mark.label for mark in found)]
    for index, frame in frames.items():
        _add_curve(figure, frame, wording.short(names[index], axes.name_limit(entries)), index, theme)
        for mark in found:
            rows = frame[frame["mark"] == mark.code]
            hover = [f"{names[index]}<br>step {step:g}" for step in rows["step"]]
            fill = None if len(runs) == 1 else style.run_colour(index, theme)
            mk.add_symbols(figure, found, mark, rows["step"], hover, theme=theme, fill=fill)
    rows = pd.concat(frames.values())
    drawn = rows.loc[rows["mark"] == mk.PLAIN, "value"].to_numpy(np.float64)
    figure.update_xaxes(**axes.step_axis(rows.loc[rows["mark"] != mk.ABSENT, "step"].to_numpy(), part.x))
    figure.update_yaxes(title_text=wording.label(scalar.capitalize(), 30), **({} if len(drawn) else axes.NO_TICKS))
    style.note_marks(figure, drawn, found, theme)
    mk.add_strip(figure, found, theme, neutral=len(runs) > 1)
    figure.update_layout(showlegend=len(runs) > 1 or bool(found), uirevision=f"{names}{scalar}")
    figure.update_layout(legend=axes.legend(entries))
    return figure


def _add_curve(figure: go.Figure, frame: pd.DataFrame, name: str, index: int, theme: str) -> None:
    line = frame[frame["mark"] <= mk.PLAIN]
    figure.add_scatter(
        x=line["step"],
        y=line["value"],
        **point_style(line["value"].to_numpy(np.float64)),
        name=name,
        line={"color": style.run_colour(index, theme), "width": 1.5, "dash": style.run_dash(index)},
        hovertemplate="step %{x}<br>%{y:.4g}<extra>" + name + "</extra>",
    )
