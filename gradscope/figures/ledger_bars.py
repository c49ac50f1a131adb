"""The ledger: which factor of each layer shrinks or grows the error signal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from gradscope.figures import axes, style, wording
from gradscope.figures import marks as mk
from gradscope.figures.decimate import spread
from gradscope.figures.gradient_flow import SIGNAL
from gradscope.figures.values import is_empty, names_by_depth, nearest_step, one_run
from gradscope.figures.window import ALL, Range, Window, seen

if TYPE_CHECKING:
    from gradscope.runs import Run

GAINS = {"weight_gain": "weight gain", "activation_gain": "activation gain", "path_gain": "path gain"}
FACTORS = {
    "phi_gain": "activation function",
    "norm_gain": "normalization",
    "pool_gain": "pooling and the like",
    "join_gain": "paths that join on the way",
}
"""Of an activation gain: drawn in its place where it could be split."""
MOST_BARS = 400
"""Layers with bars of their own; of more, neighbours share one."""
MOST_SYMBOLS = 300
COLOURS = {
    "weight_gain": "#0072B2",
    "activation_gain": "#E69F00",
    "path_gain": "#009E73",
    "phi_gain": "#E69F00",
    "norm_gain": "#CC79A7",
    "pool_gain": "#56B4E9",
    "join_gain": "#7FCBB0",
}


def ledger_frame(run: Run, step: int | None = None) -> pd.DataFrame:
    """Return the ledger as drawn: one row per layer of the trunk, gains in decades.

    Returns:
        Columns depth, layer, weight_gain, activation_gain, path_gain (log10; NaN where there is nothing to
        draw), ``*_mark`` (code of the mark: an exactly zero gain, an infinite or an undefined one; -1 at the
        ends of the trunk, where the gain does not exist), the factors of the activation gain (phi_gain, norm_gain,
        pool_gain without the join_gain that is part of it, join_gain; log10; NaN where it was not split) and
        cumulative.
    """
    one_run(run)
    ledger = run.ledger(step)
    names = names_by_depth(run)
    depths = ledger.index.to_numpy(int)
    frame = pd.DataFrame({"depth": depths, "layer": [names.get(int(depth), "?") for depth in depths]})
    for gain in GAINS:
        values = ledger[gain].to_numpy(np.float64, na_value=np.nan)
        codes = mk.classify(values, log=True, present=_exists(gain, values))
        frame[gain] = np.log10(np.where(codes == mk.PLAIN, values, np.nan))
        frame[f"{gain}_mark"] = codes
    parts = ledger[[f"log10_{factor}" for factor in FACTORS]].to_numpy(np.float64, copy=True)
    parts[:, list(FACTORS).index("pool_gain")] -= parts[:, list(FACTORS).index("join_gain")]
    frame[list(FACTORS)] = np.where(np.isfinite(parts).all(axis=1, keepdims=True), parts, np.nan)
    frame["cumulative"] = ledger["cumulative"].to_numpy(np.float64, na_value=np.nan)
    return frame


def _exists(gain: str, values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell where a gain can exist: not at the end of the trunk, where there is no second layer."""
    exists = np.ones(len(values), dtype=np.bool_)
    end = -1 if gain == "activation_gain" else 0
    if len(values):
        exists[end] = not np.isnan(values[end])
    return exists


def shared_bars(frame: pd.DataFrame, depths: Range | None = None, most: int = MOST_BARS) -> pd.DataFrame:
    """Return what bars and line draw: of many layers those that are seen, neighbours of which share a bar.

    A shared bar is the product of its layers' gains (the sum of their decades, without those that have a mark); the
    line is drawn at the first layer of each.

    Returns:
        Columns depth, layer, layers (how many share the bar), the gains, the factors of activation gains, whole_gain
        (activation gains that were not split) and cumulative.
    """
    if len(frame) > most:
        frame = frame.iloc[seen(frame["depth"].to_numpy(), depths)]
    shared = -(-len(frame) // most)
    frame = frame.assign(whole_gain=frame["activation_gain"].where(frame["phi_gain"].isna()))
    groups = frame.groupby(np.arange(len(frame)) // max(1, shared))
    first = groups[["depth", "layer", "cumulative"]].first(skipna=False)
    gains = groups[[*GAINS, *FACTORS, "whole_gain"]].sum(min_count=1)
    return first.join(gains).assign(layers=groups.size())


def ledger(run: Run, step: int | None = None, *, theme: str = "light", window: Window | None = None) -> go.Figure:
    """Draw the gains of each layer as bars in decades, and above them their running product.

    The upper line is the output gradient relative to the head's, rebuilt from the gains only. Of more than 400 layers,
    neighbours share a bar: the product of their gains.

    Args:
        run: A run that recorded the metrics of the ledger.
        step: A recorded step; the first where None.
        theme: ``light`` or ``dark``.
        window: The part that is seen, drawn in as much detail as fits.
    """
    one_run(run)
    part = window or ALL
    if SIGNAL in run.metrics and is_empty(run, SIGNAL):
        text = f"run {run.name!r} has no recorded step of metric {SIGNAL!r} yet"
        return style.message("Ledger of the error signal", text, theme)
    frame = ledger_frame(run, step)
    shown = nearest_step(run, step, SIGNAL)
    bars = shared_bars(frame, part.x)
    most = int(bars["layers"].max()) if len(bars) else 1
    text = f"{wording.short(run.name, 48)}, step {shown}" + (f"; one bar for {most} layers" if most > 1 else "")
    figure = style.empty_figure("Ledger of the error signal", text, theme)
    found = mk.kinds(frame[f"{gain}_mark"].to_numpy() for gain in GAINS)
    figure.add_scatter(
        x=bars["depth"],
        y=_finite(bars["cumulative"]),
        mode="lines+markers",
        name="cumulative",
        line={"color": style.ink(theme).text, "width": 1.6},
        marker={"size": 5 if len(frame) <= 60 else 3},
        customdata=bars["layer"],
        hovertemplate="%{customdata}, depth %{x}<br>%{y:.3f} decades<extra>cumulative</extra>",
    )
    for gain, label in _drawn(frame, bars).items():
        _add_bars(figure, bars, gain, label)
    for mark in found:
        _add_marks(figure, frame, mark, found, theme)
    _axes(figure, frame, found, part, theme)
    for axis, values in (("yaxis", frame["cumulative"]), ("yaxis3", frame[list(GAINS)])):
        if not np.isfinite(values.to_numpy(np.float64)).any():
            figure.update_layout({axis: axes.NO_TICKS})
            style.add_note(figure, "no finite value to draw", theme, f"{axis.replace('axis', '')} domain")
    figure.update_layout(uirevision=run.name, barmode="relative", bargap=0.25, showlegend=True)
    return figure


def _finite(values: pd.Series[float]) -> pd.Series[float]:
    return values.where(np.isfinite(values))


def _drawn(frame: pd.DataFrame, bars: pd.DataFrame) -> dict[str, str]:
    """Return the bars of a layer with their labels: of what differs from 1 anywhere, and of the weights in any case."""
    whole = {"whole_gain": GAINS["activation_gain"]} if bars["whole_gain"].notna().any() or frame.empty else {}
    factors = {name: label for name, label in FACTORS.items() if _matters(frame[name])}
    paths = {"path_gain": GAINS["path_gain"]} if _matters(frame["path_gain"]) else {}
    return {"weight_gain": GAINS["weight_gain"]} | whole | factors | paths


def _matters(values: pd.Series[float]) -> bool:
    """Tell whether a gain differs from 1 anywhere; on a chain the path gain does not."""
    return bool((values.abs() > 1e-6).any())


def _add_bars(figure: go.Figure, frame: pd.DataFrame, gain: str, label: str) -> None:
    figure.add_bar(
        x=frame["depth"] + (frame["layers"] - 1) / 2,
        y=frame[gain],
        yaxis="y3",
        name=label,
        marker={"color": COLOURS[gain if gain in COLOURS else "activation_gain"], "line": {"width": 0}},
        customdata=[_where(*row) for row in zip(frame["layer"], frame["depth"], frame["layers"], strict=True)],
        hovertemplate="%{customdata}<br>%{y:.3f} decades<extra>" + label + "</extra>",
    )


def _where(layer: str, depth: int, layers: int) -> str:
    return f"{layer}, depth {depth}" if layers == 1 else f"{layers} layers, depth {depth} to {depth + layers - 1}"


def _add_marks(figure: go.Figure, frame: pd.DataFrame, mark: mk.Mark, found: list[mk.Mark], theme: str) -> None:
    """Mark the layers with a gain of that kind; the hover text says which gains."""
    marked = frame[[f"{gain}_mark" for gain in GAINS]].to_numpy() == mark.code
    rows = np.flatnonzero(marked.any(axis=1))
    rows = rows[spread(len(rows), MOST_SYMBOLS)] if len(rows) else rows
    labels = list(GAINS.values())
    text = [
        f"{frame['layer'][row]}, depth {frame['depth'][row]}<br>"
        + ", ".join(label for label, hit in zip(labels, marked[row], strict=True) if hit)
        for row in rows
    ]
    mk.add_symbols(figure, found, mark, frame["depth"].to_numpy()[rows], text, theme=theme)


def _axes(figure: go.Figure, frame: pd.DataFrame, found: list[mk.Mark], part: Window, theme: str) -> None:
    floor = 0.0 if not found else 0.065 * len(found) + 0.035
    middle = floor + 0.5 * (1 - floor)
    last = int(frame["depth"].max()) if len(frame) else 1
    mk.add_strip(figure, found, theme)
    figure.update_xaxes(anchor="y2" if found else "y3", **axes.depth_axis(last, part.x))
    zero = {"zeroline": True, "zerolinewidth": 1, "zerolinecolor": "#888888"}
    figure.update_layout(
        yaxis={"domain": [middle + 0.04, 1.0], "title": {"text": "Cumulative<br>(decades)"}, **zero},
        yaxis3={
            "domain": [floor, middle - 0.04],
            "title": {"text": "Per layer<br>(decades)"},
            "anchor": "x",
            **zero,
        },
    )
