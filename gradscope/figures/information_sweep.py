"""One metric of information over depth, for the runs of a sweep: what initialization and depth do to it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from gradscope.errors import unknown_name
from gradscope.figures import axes, style, wording
from gradscope.figures.decimate import spread
from gradscope.figures.information import MISSING, how
from gradscope.figures.values import RunsLike, at_least_one, nearest_step
from gradscope.spec import MetricSpec

METRIC = "input_information"
MOST_RUNS = 24


def information_sweep_frame(runs: RunsLike, metric: str = METRIC, step: int | None = None) -> pd.DataFrame:
    """Return a metric of information over depth for several runs.

    Args:
        runs: Runs watched with ``sample=``; those without the metric are left out.
        metric: Name of a metric of information.
        step: The measured step nearest to it is taken of each run; the first where None.

    Returns:
        One row per run and depth: run, step, depth, relative (depth over the depth of the head), value, low, high.

    Raises:
        UnknownNameError: No run has the metric; the message lists those of information that there are.
    """
    pairs = at_least_one(runs)
    known = [(name, run) for name, run in pairs if metric in run.metrics and run.steps(metric)]
    if not known:
        measured = {one for _, run in pairs for one, spec in run.metrics.items() if spec.group == "information"}
        raise unknown_name("information metric", metric, sorted(measured))
    parts = []
    for name, run in known:
        at = nearest_step(run, step, metric)
        part = run.profile(metric, at).rename("value").rename_axis("depth").reset_index()
        for end in ("low", "high"):
            column = f"{metric}_{end}"
            there = column in run.metrics and at in run.steps(column)
            part[end] = part["depth"].map(run.profile(column, at)) if there else np.nan
        part.insert(0, "run", name)
        part.insert(1, "step", at)
        part.insert(3, "relative", part["depth"] / max(one.depth for one in run.specs))
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def information_sweep(
    runs: RunsLike, metric: str = METRIC, step: int | None = None, *, relative: bool = False, theme: str = "light"
) -> go.Figure:
    """Draw a metric of information over depth, a line for each run of a sweep.

    Args:
        runs: Runs watched with ``sample=``; at most 24 are drawn, evenly chosen.
        metric: Name of a metric of information.
        step: The measured step nearest to it is taken of each run; the first where None.
        relative: Whether to draw over depth relative to the head's, so that nets of any depth lie on each other.
        theme: ``light`` or ``dark``.

    Raises:
        UnknownNameError: Some run has metrics of information, but none has this one.
    """
    heading = "Information over depth, by run"
    pairs = at_least_one(runs)
    if not any(spec.group == "information" for _, run in pairs for spec in run.metrics.values()):
        return style.message(heading, MISSING.replace("this run holds", "these runs hold"), theme)
    frame = information_sweep_frame(runs, metric, step)
    names = list(dict.fromkeys(frame["run"]))
    shown = [names[place] for place in spread(len(names), MOST_RUNS)]
    spec = next(run.metrics[metric] for name, run in pairs if name == shown[0])
    figure = style.empty_figure(heading, _subtitle(spec, frame, shown, len(pairs)), theme)
    labels = [wording.short(one, 40) for one in wording.distinct(shown)]
    for place, (name, label) in enumerate(zip(shown, labels, strict=True)):
        _add_run(figure, frame[frame["run"] == name], label, place, relative, theme)
    if relative:
        figure.update_xaxes(title_text="Depth relative to the head's", range=[0, 1.03])
    else:
        figure.update_xaxes(**axes.depth_axis(int(frame["depth"].max())))
    unit = f" ({spec.unit})" if spec.unit != "1" else ""
    figure.update_yaxes(title_text=wording.label(spec.label) + unit, rangemode="tozero")
    figure.update_layout(showlegend=len(shown) > 1, legend=axes.legend(labels))
    return figure


def _subtitle(spec: MetricSpec, frame: pd.DataFrame, shown: list[str], given: int) -> str:
    steps = sorted(set(frame["step"]))
    when = f"step {steps[0]:,}" if len(steps) == 1 else f"steps {steps[0]:,} to {steps[-1]:,}"
    count = f"{len(shown)} of {given} runs" if len(shown) < given else f"{given} runs"
    return f"{count}, {when}; {how(spec)}"


def _add_run(figure: go.Figure, rows: pd.DataFrame, name: str, place: int, relative: bool, theme: str) -> None:
    figure.add_scatter(
        x=rows["relative" if relative else "depth"],
        y=rows["value"],
        mode="lines+markers",
        name=name,
        line={"color": style.run_colour(place, theme), "width": 1.8, "dash": style.run_dash(place)},
        marker={"size": 5},
        customdata=np.stack([rows["depth"], rows["low"], rows["high"], rows["step"]], axis=-1),
        hovertemplate="depth %{customdata[0]}, step %{customdata[3]}<br>%{y:.4g} [%{customdata[1]:.3g}, "
        f"%{{customdata[2]:.3g}}]<extra>{name}</extra>",
    )
