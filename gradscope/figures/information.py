"""What was measured of information: by depth with the data-processing inequality, and as the information plane."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from gradscope.errors import InvalidValueError, UnknownNameError
from gradscope.figures import axes, style, wording
from gradscope.figures.decimate import spread
from gradscope.figures.values import metric_of, names_by_depth, nearest_step, one_run
from gradscope.information.positions import pooled_depths
from gradscope.spec import MetricSpec

if TYPE_CHECKING:
    from gradscope.runs import Run

INPUT, LABEL = "input_information", "label_information"
MOST_LAYERS, MOST_STEPS = 60, 200
NEAR = 0.9
"""Share of ln n above which a number says as much of the sample as of the layer."""
MEAN = "<br>averaged over positions"
MISSING = "this run holds no information metrics: watch with sample=(x, y)"


def information_by_depth_frame(
    source: Run | pd.DataFrame, step: int | None = None, metrics: Sequence[str] = (INPUT, LABEL)
) -> pd.DataFrame:
    """Return information by depth, and where it breaks the data-processing inequality.

    Behind the input, a layer that is a function of the one before it alone cannot tell more than that one. Where the
    interval of an estimate lies wholly above that of the layer before, the *estimator* has failed (it sees more of what
    is there, not more is there): the row is marked. Behind a layer that was averaged over its positions nothing is
    marked: the next one is no function of that mean.

    Args:
        source: A run watched with ``sample=``, or a frame of ``gradscope.information_of``.
        step: A measured step of the run; the first where None.
        metrics: Names of metrics of information.

    Returns:
        One row per metric and depth: metric, depth, layer, value, low, high, pooled (averaged over positions), failed.

    Raises:
        UnknownNameError: The run did not record a metric.
        InvalidValueError: The step was not measured, or the frame holds none of the metrics.
    """
    rows = _of_frame(source, metrics) if isinstance(source, pd.DataFrame) else _of_run(source, step, metrics)
    pooled = _pooled(source)
    rows["pooled"] = rows["depth"].isin(pooled)
    follows = {depth for depth in _followers(source) if depth - 1 not in pooled}
    parts = [_judged(part, follows) for _, part in rows.groupby("metric", sort=False)]
    return pd.concat(parts, ignore_index=True)


def information_by_depth(
    source: Run | pd.DataFrame,
    step: int | None = None,
    metrics: Sequence[str] = (INPUT, LABEL),
    *,
    theme: str = "light",
) -> go.Figure:
    """Draw information over depth with its interval, its ceiling if near, and where the estimator has failed.

    Args:
        source: A run watched with ``sample=``, or a frame of ``gradscope.information_of``.
        step: A measured step of the run; the first where None.
        metrics: Names of metrics of information in one unit.
        theme: ``light`` or ``dark``.

    Raises:
        UnknownNameError: The run did not record a metric, though others of information.
        InvalidValueError: The step was not measured.
    """
    heading = "Information over depth"
    if not isinstance(source, pd.DataFrame):
        one_run(source)
        if not any(one in source.metrics for one in metrics):
            return style.message(heading, MISSING, theme)
        if not source.steps(metrics[0]):
            return style.message(heading, "the sample has not been measured yet", theme)
        step = source.steps(metrics[0])[0] if step is None else step
    frame = information_by_depth_frame(source, step, metrics)
    seen = _seen(frame)
    figure = style.empty_figure(heading, "<br>".join([_subtitle(source, step, metrics), *seen]), theme)
    for place, (name, rows) in enumerate(frame.groupby("metric", sort=False)):
        _add_profile(figure, rows, _label(source, str(name)), place, theme)
    _add_ceiling(figure, source, frame, theme)
    failed = frame[frame["failed"]]
    if len(failed):
        figure.add_scatter(
            x=failed["depth"],
            y=failed["value"],
            mode="markers",
            name="estimator failure: above the layer before",
            marker={"symbol": "x", "size": 11, "color": style.ink(theme).zero, "line": {"width": 1}},
            hovertemplate="depth %{x}: above the layer before beyond its interval,"
            "<br>which no function of it can be<extra>estimator failure</extra>",
        )
    last = int(frame["depth"].max()) if len(frame) else 1
    figure.update_xaxes(**axes.depth_axis(last))
    if (frame["depth"] == 0).any():
        figure.update_xaxes(range=[-0.5, last + 0.5], title_text="Depth (0: the input)")
    figure.update_yaxes(title_text=_unit(source, metrics), rangemode="tozero")
    figure.update_layout(showlegend=True, margin={"t": 82 if seen else 64, "b": 92})
    return figure


def information_plane_frame(run: Run, x: str = INPUT, y: str = LABEL) -> pd.DataFrame:
    """Return the path of every layer through the information plane: depth, layer, step, x, y and their intervals.

    Raises:
        UnknownNameError: The run did not record one of the metrics.
    """
    frame = _points(run, x).merge(_points(run, y), on=["step", "depth"], suffixes=("", "_y"))
    names = names_by_depth(run)
    frame.insert(1, "layer", [names.get(int(depth), "?") for depth in frame["depth"]])
    renamed = {"value": "x", "low": "x_low", "high": "x_high", "value_y": "y", "low_y": "y_low", "high_y": "y_high"}
    return frame.rename(columns=renamed).sort_values(["depth", "step"], ignore_index=True)


def information_plane(run: Run, x: str = INPUT, y: str = LABEL, *, theme: str = "light") -> go.Figure:
    """Draw what each layer tells of the label over what it tells of the input, one path per layer over training.

    The estimator, its settings and, at the end of each path, its intervals are part of the picture: with another
    estimator the paths are others (Saxe et al. 2018).

    Args:
        run: A run watched with ``sample=``.
        x: Metric across.
        y: Metric upwards.
        theme: ``light`` or ``dark``.

    Raises:
        UnknownNameError: The run did not record one of the metrics, though others of information.
    """
    heading = "Information plane"
    one_run(run)
    if x not in run.metrics and y not in run.metrics:
        return style.message(heading, MISSING, theme)
    frame = information_plane_frame(run, x, y)
    if frame.empty:
        unlabelled = run.steps(x) and not run.steps(y)
        said = (
            f"{y!r} was not measured: the sample has no labels"
            if unlabelled
            else f"no step has both {x!r} and {y!r} yet"
        )
        return style.message(heading, said, theme)
    steps = frame["step"].unique()
    ends = f"steps {steps.min():,} to {steps.max():,}" if len(steps) > 1 else f"step {steps[0]:,}"
    figure = style.empty_figure(heading, f"{_subtitle(run, None, (x, y))}; {ends} (end: filled)", theme)
    depths = np.sort(frame["depth"].unique())
    shown = depths[spread(len(depths), MOST_LAYERS)]
    for colour, depth in zip(style.depth_colours(len(shown), theme), shown, strict=True):
        _add_path(figure, frame[frame["depth"] == depth], int(depth), colour, theme)
    figure.update_xaxes(title_text=_title(run.metrics[x]), rangemode="tozero")
    figure.update_yaxes(title_text=_title(run.metrics[y]), rangemode="tozero")
    names = [f"depth {depth}" for depth in shown]
    figure.update_layout(showlegend=len(shown) <= 12, legend=axes.legend(names) if len(shown) <= 12 else {})
    if len(shown) > 12:
        _add_depth_bar(figure, shown, theme)
    return figure


def _of_run(run: Run, step: int | None, metrics: Sequence[str]) -> pd.DataFrame:
    one_run(run)
    names = names_by_depth(run)
    parts = []
    for metric in metrics:
        metric_of(run, metric)
        at = nearest_step(run, None, metric) if step is None else step
        columns = {"value": run.profile(metric, at)}
        for end in ("low", "high"):
            known = f"{metric}_{end}" in run.metrics and at in run.steps(f"{metric}_{end}")
            columns[end] = run.profile(f"{metric}_{end}", at) if known else pd.Series(dtype=np.float64)
        part = pd.DataFrame(columns).rename_axis("depth").reset_index()
        part.insert(0, "metric", metric)
        part.insert(2, "layer", [names.get(int(depth), "?") for depth in part["depth"]])
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _of_frame(frame: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    chosen = frame[frame["metric"].isin(metrics)]
    if chosen.empty:
        raise InvalidValueError(f"the frame holds none of {', '.join(metrics)}")
    return chosen[["metric", "depth", "layer", "value", "low", "high"]].copy()


def _followers(source: Run | pd.DataFrame) -> set[int]:
    """Return the depths whose layer takes in nothing but the layer call before it."""
    if isinstance(source, pd.DataFrame):
        return set(source["depth"])
    parents = {one.depth: list(above) for one, above in zip(source.specs, source.layers["parents"], strict=True)}
    # What a layer hands on is what the next one takes in: a skip that joins there comes from further down.
    alone = {depth for depth, above in parents.items() if above in ([], [depth - 1])}
    joined = {min(above) for above in parents.values() if len(above) > 1}
    first = min(joined, default=len(parents) + 1)
    return {depth for depth in alone if depth <= first}


def _pooled(source: Run | pd.DataFrame) -> set[int]:
    """Return the depths whose layer was averaged over its positions."""
    if isinstance(source, pd.DataFrame):
        return set(source.loc[source["parameters"].str.contains("spatial=pool", regex=False), "depth"])
    return pooled_depths(source.specs)


def _seen(frame: pd.DataFrame) -> list[str]:
    """Say which layers were not seen as the network hands them on, where there are such."""
    depths = sorted(set(frame.loc[frame["pooled"], "depth"]))
    if not depths:
        return []
    which = ", ".join(map(str, depths)) if len(depths) < 5 else f"{depths[0]} ... {depths[-1]}"
    others = "the others whole: " if len(depths) < frame["depth"].nunique() else ""
    return [f"depth {which} averaged over positions, {others}a rise behind a mean is no failure"]


def _judged(rows: pd.DataFrame, follows: set[int]) -> pd.DataFrame:
    rows = rows.sort_values("depth", ignore_index=True)
    before = rows["high"].fillna(rows["value"]).shift()
    lowest = rows["low"].fillna(rows["value"])
    next_to = rows["depth"].diff() == 1
    return rows.assign(failed=(lowest > before * (1 + 1e-6) + 1e-9) & next_to & rows["depth"].isin(follows))


def _points(run: Run, metric: str) -> pd.DataFrame:
    metric_of(run, metric)
    rows = run.rows(metric)[["depth", "step", "value"]]
    for end in ("low", "high"):
        name = f"{metric}_{end}"
        found = run.rows(name)[["depth", "step", "value"]] if name in run.metrics else rows.head(0)
        rows = rows.merge(found.rename(columns={"value": end}), on=["depth", "step"], how="left")
    return rows


def _add_profile(figure: go.Figure, rows: pd.DataFrame, name: str, place: int, theme: str) -> None:
    colour = style.run_colour(place, theme)
    known = rows[rows["low"].notna() & rows["high"].notna()]
    if len(known):
        figure.add_scatter(
            x=[*known["depth"], *known["depth"][::-1]],
            y=[*known["high"], *known["low"][::-1]],
            mode="lines",
            fill="toself",
            fillcolor=colour,
            opacity=0.15,
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
        )
    figure.add_scatter(
        x=rows["depth"],
        y=rows["value"],
        mode="lines+markers",
        name=name,
        line={"color": colour, "width": 2},
        customdata=np.stack([rows["layer"], rows["low"], rows["high"], np.where(rows["pooled"], MEAN, "")], axis=-1),
        hovertemplate="%{customdata[0]}, depth %{x}<br>%{y:.4g} [%{customdata[1]:.3g}, %{customdata[2]:.3g}]"
        "%{customdata[3]}"
        f"<extra>{name}</extra>",
    )


def _add_ceiling(figure: go.Figure, source: Run | pd.DataFrame, frame: pd.DataFrame, theme: str) -> None:
    """Draw ln n where information about the input comes close to it: it cannot be told from the most that there is."""
    for name, rows in frame.groupby("metric", sort=False):
        count = _samples(source, str(name)) if str(name).startswith(INPUT) else 0
        if count < 2 or not rows["value"].max() > NEAR * math.log(count):
            continue
        figure.add_hline(
            math.log(count),
            line={"color": style.ink(theme).faint, "width": 1, "dash": "dot"},
            annotation={
                "text": f"ln {count:,}: the most that {count:,} samples can show",
                "font": {"color": style.ink(theme).faint, "size": 11},
                "xanchor": "right",
                "yanchor": "bottom",
            },
        )


def _samples(source: Run | pd.DataFrame, metric: str) -> int:
    """Return how many samples an estimate rests on; 0 where nothing says so."""
    if isinstance(source, pd.DataFrame):
        return int(source.loc[source["metric"] == metric, "n"].min())
    settings = source.metrics[metric].parameters
    found = settings.get("rows", settings.get("samples", 0))
    return int(found) if isinstance(found, int | float) else 0


def _add_path(figure: go.Figure, rows: pd.DataFrame, depth: int, colour: str, theme: str) -> None:
    rows = rows.iloc[spread(len(rows), MOST_STEPS)]
    layer = wording.short(str(rows["layer"].iloc[0]), 30)
    figure.add_scatter(
        x=rows["x"],
        y=rows["y"],
        mode="lines+markers",
        name=f"depth {depth}",
        legendgroup=f"{depth}",
        line={"color": colour, "width": 1},
        marker={"size": 5, "color": style.ink(theme).paper, "line": {"color": colour, "width": 1.2}},
        customdata=rows["step"],
        hovertemplate=f"{layer}, depth {depth}<br>step %{{customdata}}<br>%{{x:.4g}}, %{{y:.4g}}<extra></extra>",
    )
    end = rows.iloc[-1]
    bars = {axis: _bars(end, axis, colour) for axis in ("x", "y")}
    figure.add_scatter(
        x=[end["x"]],
        y=[end["y"]],
        mode="markers",
        showlegend=False,
        legendgroup=f"{depth}",
        marker={"size": 9, "color": colour},
        error_x=bars["x"],
        error_y=bars["y"],
        hovertemplate=f"{layer}, depth {depth}<br>step {int(end['step'])}<br>"
        f"[{end['x_low']:.3g}, {end['x_high']:.3g}], [{end['y_low']:.3g}, {end['y_high']:.3g}]<extra></extra>",
    )


def _bars(end: pd.Series[Any], axis: str, colour: str) -> dict[str, object]:
    up, down = end[f"{axis}_high"] - end[axis], end[axis] - end[f"{axis}_low"]
    return {
        "type": "data",
        "array": [0.0 if math.isnan(up) else up],
        "arrayminus": [0.0 if math.isnan(down) else down],
        "color": colour,
        "thickness": 0.8,
        "width": 2,
    }


def _add_depth_bar(figure: go.Figure, shown: np.ndarray[tuple[int], np.dtype[np.int64]], theme: str) -> None:
    figure.add_scatter(
        x=[None],
        y=[None],
        mode="markers",
        showlegend=False,
        marker={
            "colorscale": style.depth_scale(theme),
            "cmin": int(shown[0]),
            "cmax": int(shown[-1]),
            "color": [int(shown[0])],
            "showscale": True,
            "colorbar": axes.colour_bar("Depth"),
        },
    )


def _subtitle(source: Run | pd.DataFrame, step: int | None, metrics: Sequence[str]) -> str:
    """Name the run, the step, and how the numbers came about: the estimator is part of the result."""
    if isinstance(source, pd.DataFrame):
        rows = source[source["metric"].isin(metrics)]
        said = f"{rows['estimator'].iloc[0]}, {rows['parameters'].iloc[0]}, n = {rows['n'].iloc[0]}"
        warned = rows.loc[rows["warning"] != "", "warning"]
        return said + (f"; {len(warned)} warned: {wording.label(str(warned.iloc[0]), 60)}" if len(warned) else "")
    known = [source.metrics[one] for one in metrics if one in source.metrics]
    if len(known) < len(metrics):
        missing = next(one for one in metrics if one not in source.metrics)
        raise UnknownNameError(f"run {source.name!r} did not record {missing!r}")
    estimators = "; ".join(dict.fromkeys(how(one) for one in known))
    where = [wording.short(source.name, 40), *([f"step {step:,}"] if step is not None else [])]
    return f"{', '.join(where)}; {estimators}"


def how(spec: MetricSpec) -> str:
    """Return the estimator of a metric of information, with its settings."""
    settings = {key: one for key, one in spec.parameters.items() if key not in ("estimator", "spatial")}
    named = ", ".join(f"{key} = {one}" for key, one in settings.items())
    return f"{spec.parameters.get('estimator', spec.name)}, {named}" if named else spec.name


def _label(source: Run | pd.DataFrame, name: str) -> str:
    if isinstance(source, pd.DataFrame):
        return wording.label(name.replace("_", " ").capitalize())
    return wording.label(source.metrics[name].label)


def _unit(source: Run | pd.DataFrame, metrics: Sequence[str]) -> str:
    if isinstance(source, pd.DataFrame):
        unit = str(source.loc[source["metric"].isin(metrics), "unit"].iloc[0])
    else:
        unit = source.metrics[metrics[0]].unit
    return "Information (nats)" if unit == "nats" else "Value"


def _title(spec: MetricSpec) -> str:
    return wording.label(spec.label) + (f" ({spec.unit})" if spec.unit != "1" else "")
