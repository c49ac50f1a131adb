"""The profile of a metric over depth at one step, with the decay of the error signal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from gradscope.errors import GradscopeError
from gradscope.figures import axes, style, wording
from gradscope.figures import marks as mk
from gradscope.figures.decimate import line_points, spread
from gradscope.figures.overlay import add_prediction
from gradscope.figures.prediction import Prediction, predicted
from gradscope.figures.values import RunsLike, at_least_one, is_empty, metric_of, names_by_depth, nearest_step, one_run
from gradscope.figures.window import ALL, Range, Window, seen
from gradscope.spec import MetricSpec

if TYPE_CHECKING:
    from gradscope.runs import Decay, Run

SIGNAL = "output_grad_norm"
MOST_POINTS = 1000
"""Layers of a run that are drawn as points of its profile."""
MOST_SYMBOLS = 300
MARKED_LAYERS = 200
"""Layers above which the points of a profile are but dots on its line."""


def gradient_flow_frame(run: Run, step: int | None = None, metric: str = SIGNAL) -> pd.DataFrame:
    """Return what is drawn: one row per layer call of the run with depth, layer, value and mark.

    Args:
        run: A run.
        step: A recorded step; the first where None.
        metric: Name of a recorded metric.

    Returns:
        Columns depth, layer, value, mark: the code of the mark, 0 for a value that has a place on the axis,
        -1 (and the value NaN) where the layer recorded nothing at that step, which breaks the line.
    """
    one_run(run)
    spec = metric_of(run, metric)
    profile = run.profile(metric, step)
    names = names_by_depth(run)
    depths = sorted({*names, *map(int, profile.index)})
    values = profile.reindex(depths).to_numpy(np.float64, na_value=np.nan)
    codes = mk.classify(values, spec.scale == "log", np.isin(depths, profile.index))
    layers = [names.get(depth, "?") for depth in depths]
    return pd.DataFrame({"depth": depths, "layer": layers, "value": values, "mark": codes})


def bounded(frame: pd.DataFrame, log: bool, depths: Range | None = None, most: int = MOST_POINTS) -> pd.DataFrame:
    """Return the rows of a profile that are drawn: of many layers those that are seen, at most ``most``.

    Extremes are kept, of marked layers at most `MOST_SYMBOLS`, and one absent layer where some lie in between.
    """
    if len(frame) <= most:
        return frame
    frame = frame.iloc[seen(frame["depth"].to_numpy(), depths)]
    marks, values = frame["mark"].to_numpy(), frame["value"].to_numpy()
    plain = np.where(marks == mk.PLAIN, values, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        heights = np.log10(plain) if log else plain
    chosen = line_points(frame["depth"].to_numpy(), heights, most)
    marked, absent = np.flatnonzero(marks > mk.PLAIN), np.flatnonzero(np.diff(marks == mk.ABSENT, prepend=False))
    few = [places[spread(len(places), MOST_SYMBOLS)] for places in (marked, absent) if len(places)]
    return frame.iloc[np.unique(np.concatenate([chosen, *few]))]


def decay_frame(run: Run, step: int | None = None) -> pd.DataFrame:
    """Return the decay line: depth and value along the trunk, from layer 1 to the last hidden layer.

    The decay is the mean increment of the logarithm, so the line runs from the first value to the last;
    empty where the rate is zero or not a number.
    """
    one_run(run)
    rate = run.decay(step).rate
    profile = run.profile(SIGNAL, step)
    hidden = [(place, depth) for place, depth in enumerate(run.trunk[:-1]) if depth in profile.index]
    if len(hidden) < 2 or not math.isfinite(rate) or rate <= 0:
        return pd.DataFrame({"depth": np.zeros(0, dtype=int), "value": np.zeros(0)})
    end, last = hidden[-1]
    # The rate is per layer of the trunk, whose depths have gaps where branches lie between.
    hidden = [hidden[place] for place in spread(len(hidden), MOST_POINTS)]
    values = [float(profile[last]) * rate ** (end - place) for place, _ in hidden]
    return pd.DataFrame({"depth": [depth for _, depth in hidden], "value": values})


def gradient_flow(
    run: RunsLike,
    step: int | None = None,
    metric: str = SIGNAL,
    *,
    theory: bool | pd.DataFrame | None = None,
    theme: str = "light",
    window: Window | None = None,
) -> go.Figure:
    """Draw a metric over depth at one step; for the output gradient, with its decay per layer.

    With ``theory``, what mean-field theory predicts lies over it as a dashed line, in the band in which 95 % of nets of
    this width would lie. It follows from the variances of the weights at that step, as if they had been drawn at
    random: exact at initialization, a comparison later. The subtitle says where the line was set to the measured
    value, and why there is none for a layer.

    Args:
        run: A run, or several to compare. Of the runs after the first, the recorded step nearest to that of
            the first is drawn, and the legend names it where it differs; runs without any value of the
            metric are left out, and the subtitle counts them.
        step: A recorded step; the first where None.
        metric: Name of a recorded metric; its description decides about scale, unit and bounds.
        theory: True for what follows from the recorded layers, or a frame of predictions such as that of
            ``gradscope.predict``. It is drawn for the first run.
        theme: ``light`` or ``dark``.
        window: The part that is seen, drawn in as much detail as fits.

    Raises:
        UnknownNameError: The run has no such metric.
        InvalidValueError: The step is not recorded, or the frame of predictions lacks a column.
        InvalidTypeError: ``theory`` is neither.
    """
    part = window or ALL
    names, runs = zip(*at_least_one(run), strict=True)
    spec = metric_of(runs[0], metric)
    heading = f"{wording.label(spec.label)} over depth"
    if is_empty(runs[0], metric):
        return style.message(heading, f"run {names[0]!r} has no recorded step of metric {metric!r} yet", theme)
    shown = nearest_step(runs[0], None, metric) if step is None else step
    given = len(runs)
    names, runs = zip(*(pair for pair in zip(names, runs, strict=True) if _has(pair[1], metric)), strict=True)
    steps = [shown, *(nearest_step(one, shown, metric) for one in runs[1:])]
    frames = [gradient_flow_frame(one, at, metric) for one, at in zip(runs, steps, strict=True)]
    last = max((int(frame["depth"].max()) for frame in frames if len(frame)), default=1)
    frames = [bounded(frame, spec.scale == "log", part.x) for frame in frames]
    found = mk.kinds(frame["mark"].to_numpy() for frame in frames)
    text = _subtitle(names, runs, steps, metric)
    text += f"; {given - len(runs)} without a value left out" if len(runs) < given else ""
    overlay = predicted(runs[0], shown, metric, theory)
    lines = [text, *overlay.lines(runs[0].trunk[:-1], shown)]
    figure = style.empty_figure(heading, "<br>".join(lines), theme)
    shown_names = wording.distinct(names)
    entries = [*shown_names, *(mark.label for mark in found), *([] if overlay.empty else [overlay.name])]
    limit = axes.name_limit(entries)
    for index, (one, at, frame) in enumerate(zip(shown_names, steps, frames, strict=True)):
        name = wording.short(one, limit) + ("" if at == shown else f" · step {at}")
        if metric == SIGNAL:
            if overlay.empty:
                _add_decay(figure, runs[index], at, index, theme)
            name += "" if len(runs) == 1 else f" · {rate_text(_decay(runs[index], at))}"
        _add_profile(figure, frame, name, index, theme)
        place = (index, len(runs)) if len(runs) > 1 else None
        _add_marks(figure, frame, found, name, place, theme)
    add_prediction(figure, overlay, theme)
    _axes(figure, spec, frames, last, part, overlay)
    plain = [frame.loc[frame["mark"] == mk.PLAIN, "value"].to_numpy(np.float64) for frame in frames]
    style.note_marks(figure, np.concatenate(plain), found, theme)
    mk.add_strip(figure, found, theme, neutral=len(runs) > 1)
    if len(runs) == 1 and overlay.empty:
        figure.update_traces(showlegend=False, selector={"mode": "lines+markers"})
    figure.update_layout(showlegend=len(entries) > 1, uirevision=f"{names}{metric}")
    figure.update_layout(legend=axes.legend(entries))
    figure.update_layout(margin={"t": 46 + 18 * len("<br>".join(lines).split("<br>"))})
    return figure


def _decay(run: Run, step: int) -> Decay | None:
    """Return the decay where the run can have one (a single layer has none)."""
    try:
        return run.decay(step)
    except GradscopeError:
        return None


def rate_text(decay: Decay | None) -> str:
    """Write a decay rate as a legend shows it."""
    known = decay is not None and not math.isnan(decay.rate)
    return wording.number(decay.rate) if decay is not None and known else "no decay rate"


def _subtitle(names: Sequence[str], runs: Sequence[Run], steps: Sequence[int], metric: str) -> str:
    step = steps[0]
    if len(runs) > 1:
        near = "" if len(set(steps)) == 1 else " (nearest recorded)"
        return f"{len(runs)} runs at step {step}{near}" + ("; decay per layer" if metric == SIGNAL else "")
    start = f"{wording.short(names[0], 60)}, step {step}"
    return start if metric != SIGNAL else f"{start}<br>{_decay_text(_decay(runs[0], step))}"


def _decay_text(decay: Decay | None) -> str:
    if decay is None or math.isnan(decay.rate):
        return "no decay rate (too few or undefined values)"
    if decay.rate == 0:
        return "the output gradient of the lowest layer is exactly zero"
    between = f" [{wording.number(decay.low)}, {wording.number(decay.high)}]" if math.isfinite(decay.low) else ""
    total = f"{wording.number(decay.decades)} decades over {decay.layers} layers"
    return f"decay {rate_text(decay)} per layer{between}, {total}"


def _add_decay(figure: go.Figure, run: Run, step: int, index: int, theme: str) -> None:
    if _decay(run, step) is None:
        return
    frame = decay_frame(run, step)
    line = {"color": style.run_colour(index, theme), "dash": "dot", "width": 1.5}
    figure.add_scatter(
        x=frame["depth"],
        y=frame["value"],
        mode="lines",
        line=line,
        opacity=0.7,
        showlegend=False,
        hoverinfo="skip",
    )


def _add_profile(figure: go.Figure, frame: pd.DataFrame, name: str, index: int, theme: str) -> None:
    figure.add_scatter(
        x=frame["depth"],
        y=frame["value"].where(frame["mark"] == mk.PLAIN),
        mode="lines+markers",
        name=name,
        line={"color": style.run_colour(index, theme), "width": 1.8, "dash": style.run_dash(index)},
        marker={"size": 7 if len(frame) <= 60 else 4 if len(frame) <= MARKED_LAYERS else 2},
        customdata=frame["layer"],
        hovertemplate="%{customdata}, depth %{x}<br>%{y:.4g}<extra>" + name + "</extra>",
    )


def _add_marks(
    figure: go.Figure,
    frame: pd.DataFrame,
    found: list[mk.Mark],
    name: str,
    place: tuple[int, int] | None,
    theme: str,
) -> None:
    """Draw the marks of a run; ``place`` is its number and how many there are, None for a single run."""
    fill = style.run_colour(place[0], theme) if place else None
    lift = 0.7 * ((place[0] + 0.5) / place[1] - 0.5) if place else 0.0
    for mark in found:
        rows = frame[frame["mark"] == mark.code]
        pairs = zip(rows["layer"], rows["depth"], strict=True)
        text = [f"{name}<br>{layer}, depth {depth}" for layer, depth in pairs]
        mk.add_symbols(figure, found, mark, rows["depth"], text, theme=theme, fill=fill, lift=lift)


def _axes(
    figure: go.Figure,
    spec: MetricSpec,
    frames: list[pd.DataFrame],
    last: int,
    part: Window,
    overlay: Prediction,
) -> None:
    rows = pd.concat(frames)
    values = rows.loc[rows["mark"] == mk.PLAIN, "value"].to_numpy(np.float64)
    values = np.concatenate([values, overlay.values(spec.scale == "log")])
    figure.update_xaxes(**axes.depth_axis(last, part.x))
    figure.update_yaxes(**axes.value_axis(spec, values, part.y))


def _has(run: Run, metric: str) -> bool:
    return metric in run.metrics and not is_empty(run, metric)
