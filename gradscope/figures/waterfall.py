"""The waterfall: the gradient's way from the head down to the first layer, factor by factor."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from gradscope.figures import axes, style, wording
from gradscope.figures import marks as mk
from gradscope.figures.gradient_flow import SIGNAL
from gradscope.figures.values import is_empty, names_by_depth, nearest_step, one_run
from gradscope.figures.window import ALL, Range, Window, seen
from gradscope.runs.factors import KINDS, Totals, decades, totals

if TYPE_CHECKING:
    from gradscope.runs import Run

TITLE = "Where the error signal goes"
MOST_STRETCHES = 40
"""Ways from one layer to the next that are drawn apart; of more, neighbours are added up."""
COLOURS = {
    "weights": "#0072B2",
    "paths": "#009E73",
    "pooling": "#56B4E9",
    "activation": "#E69F00",
    "normalization": "#CC79A7",
    "unsplit": "#7F7F7F",
}
LABELS = {kind: kind for kind in KINDS} | {"unsplit": "activation and all else between"}
WIDTH = 80
"""Characters of a line that fit a figure of half a page."""
VISIBLE = 1e-9
"""Decades below which a kind of factor does nothing."""


def waterfall_frame(run: Run, step: int | None = None) -> pd.DataFrame:
    """Return the waterfall as drawn: one row for each way from a layer of the trunk to the one below, head first.

    Returns:
        Columns depth, layer (where the way ends), upper (depth where it begins), layers (1), the kinds of
        ``gradscope.runs.factors`` (decades), `start` and `end` (log10 of the measured norm of the output gradient at
        either end; `start` plus the decades is `end`), and `mark`: code of the mark where a factor or a norm is
        exactly zero, infinite or undefined.
    """
    one_run(run)
    book = run.ledger(step)
    found = decades(book)
    names = names_by_depth(run)
    norms = run.profile(SIGNAL, nearest_step(run, step, SIGNAL) if step is None else step)
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = np.log10(norms.reindex(book.index).to_numpy(np.float64))
    frame = pd.DataFrame({"depth": book.index[:-1].to_numpy(np.int64), "upper": book.index[1:].to_numpy(np.int64)})
    frame["layer"] = [names.get(int(depth), "?") for depth in frame["depth"]]
    frame["layers"] = 1
    frame[list(KINDS)] = found.to_numpy(np.float64)
    frame["start"], frame["end"] = levels[1:], levels[:-1]
    frame["mark"] = _codes(frame[[*KINDS, "start", "end"]].to_numpy(np.float64))
    return frame.iloc[::-1].reset_index(drop=True)


def _codes(logs: NDArray[np.float64]) -> NDArray[np.int8]:
    """Return the code of the mark of every row: of the zeros, infinities and NaN among its logarithms."""
    with np.errstate(over="ignore"):
        codes = mk.classify(np.where(np.isneginf(logs), 0.0, np.where(np.isfinite(logs), 1.0, logs)), log=True)
    found = np.zeros(len(logs), dtype=np.int8)
    # What comes after a zero or an infinity is undefined: these say more.
    for code in (mk.NAN.code, mk.INFINITE.code, mk.ZERO.code):
        found[(codes == code).any(axis=1)] = code
    return found


def shared_stretches(frame: pd.DataFrame, depths: Range | None = None, most: int = MOST_STRETCHES) -> pd.DataFrame:
    """Return what is drawn: of many ways those that are seen, neighbours added up."""
    if len(frame) > most:
        ascending = frame["depth"].to_numpy()[::-1]
        part = seen(ascending, depths)
        frame = frame.iloc[::-1].iloc[part].iloc[::-1]
    shared = -(-len(frame) // most)
    groups = frame.groupby(np.arange(len(frame)) // max(1, shared))
    ends = groups[["depth", "layer", "end"]].last(skipna=False)
    starts = groups[["upper", "start"]].first(skipna=False)
    sums = groups[list(KINDS)].sum(skipna=False)
    return ends.join(starts).join(sums).assign(layers=groups.size(), mark=groups["mark"].max())


def waterfall(run: Run, step: int | None = None, *, theme: str = "light", window: Window | None = None) -> go.Figure:
    """Draw which factors take the error signal from the head down to the first layer, as bars that float.

    Left is the head: its dot is the measured norm of its output gradient. From there every bar leads on by what one
    factor does, down where it shrinks the signal and up where it makes it grow, to the dot of the next layer; the last
    bar ends at the dot of the first layer, exactly. Of more than 40 layers, neighbours are added up. The subtitle
    sums up by kind of factor.

    Args:
        run: A run that recorded the metrics of the ledger.
        step: A recorded step; the first where None.
        theme: ``light`` or ``dark``.
        window: The part that is seen, drawn in as much detail as fits.

    Raises:
        UnknownNameError: The run did not record the metrics that the ledger is built from.
        InvalidValueError: The step is not recorded.
    """
    one_run(run)
    part = window or ALL
    if SIGNAL in run.metrics and is_empty(run, SIGNAL):
        return style.message(TITLE, f"run {run.name!r} has no recorded step of metric {SIGNAL!r} yet", theme)
    frame = waterfall_frame(run, step)
    if not len(frame):
        return style.message(TITLE, f"run {run.name!r} has one layer: there is no way to go", theme)
    bars = shared_stretches(frame, part.x)
    shown = nearest_step(run, step, SIGNAL)
    figure = style.empty_figure(TITLE, _subtitle(run, step, shown, int(bars["layers"].max())), theme)
    found = mk.kinds([bars["mark"].to_numpy(np.int8)])
    kinds = [kind for kind in KINDS if _matters(frame[kind])]
    for place, kind in enumerate(kinds):
        _add_bars(figure, bars, kinds, place, kind)
    _add_levels(figure, bars, theme)
    for mark in found:
        rows = bars[bars["mark"] == mark.code]
        text = _places(rows)
        mk.add_symbols(figure, found, mark, (rows["depth"] + rows["upper"]) / 2, text, theme=theme)
    _axes(figure, frame, bars, found, part, theme)
    margin = {"t": 46 + 18 * (1 + figure.layout.title.subtitle.text.count("<br>"))}
    figure.update_layout(uirevision=run.name, barmode="overlay", showlegend=True, margin=margin)
    return figure


def _matters(values: pd.Series[float]) -> bool:
    finite = values[np.isfinite(values)]
    return bool((finite.abs() > VISIBLE).any())


def _add_bars(figure: go.Figure, bars: pd.DataFrame, kinds: list[str], place: int, kind: str) -> None:
    """Add the bars of one kind: each begins where those of the kinds before it end."""
    plain = bars[(bars["mark"] == mk.PLAIN) & (bars[kind].abs() > VISIBLE)]
    span = (plain["upper"] - plain["depth"]) * 0.9
    width = span / len(kinds)
    before = plain[kinds[:place]].sum(axis=1) if place else 0.0
    left = plain["upper"] - (plain["upper"] - plain["depth"] - span) / 2  # the axis runs from the head down
    text = [
        f"{where}<br>{_signed(value)} decades"
        for where, value in zip(_places(plain), plain[kind].to_list(), strict=True)
    ]
    figure.add_bar(
        x=left - width * (place + 0.5),
        y=plain[kind],
        base=plain["start"] + before,
        width=width,
        name=LABELS[kind],
        marker={"color": COLOURS[kind], "line": {"width": 0}},
        customdata=text,
        hovertemplate="%{customdata}<extra>" + LABELS[kind] + "</extra>",
    )


def _places(rows: pd.DataFrame) -> list[str]:
    """Say for every row from where to where it leads."""
    columns = (rows[name].to_list() for name in ("layer", "depth", "upper", "layers"))
    return [
        f"depth {upper} to {layer}, depth {depth}" + (f" ({count} layers)" if count > 1 else "")
        for layer, depth, upper, count in zip(*columns, strict=True)
    ]


def _add_levels(figure: go.Figure, bars: pd.DataFrame, theme: str) -> None:
    """Add the dots: the measured norms between which the bars lead."""
    depths = [int(bars["upper"].iloc[0]), *bars["depth"]]
    levels = np.asarray([bars["start"].iloc[0], *bars["end"]], np.float64)
    levels = np.where(np.isfinite(levels), levels, np.nan)
    figure.add_scatter(
        x=depths,
        y=levels,
        mode="markers",
        name="output gradient norm",
        marker={"size": 6, "color": style.ink(theme).text},
        customdata=[wording.number(10.0**level) if math.isfinite(level) else "" for level in levels],
        hovertemplate="depth %{x}<br>|dL/dz| = %{customdata}<extra>measured</extra>",
    )


def _subtitle(run: Run, step: int | None, shown: int, layers: int) -> str:
    text = f"{wording.short(run.name, 48)}, step {shown}"
    text += f"; {layers} layers to a group of bars" if layers > 1 else ""
    return "<br>".join([text, *broken(summary(totals(run.ledger(step))))])


def broken(text: str, width: int = WIDTH) -> list[str]:
    """Break a summary into lines that fit a figure of half a page, between the kinds of factors.

    >>> broken("−3.00 decades from head to first layer: weights −0.30, activation −2.70 (90 %)", 50)
    ['−3.00 decades from head to first layer:', 'weights −0.30, activation −2.70 (90 %)']
    >>> broken("weights −0.30, activation −2.70")
    ['weights −0.30, activation −2.70']
    """
    head, colon, kinds = text.partition(": ")
    if len(text) <= width or not colon:
        return [text]
    lines = [f"{head}:"]
    for kind in kinds.split(", "):
        apart = len(lines) == 1 or len(lines[-1]) + 2 + len(kind) > width
        lines = [*lines, kind] if apart else [*lines[:-1], f"{lines[-1]}, {kind}"]
    # A comma at the end of a line says that more follows.
    return [f"{one}," if 0 < place < len(lines) - 1 else one for place, one in enumerate(lines)]


def summary(sums: Totals) -> str:
    """Say in a line what each kind of factor contributes; the part of the largest where none works against another.

    >>> summary(Totals(weights=-0.3, paths=0.0, pooling=0.0, activation=-2.7, normalization=0.0, unsplit=0.0))
    '−3.00 decades from head to first layer: weights −0.30, activation −2.70 (90 %)'
    """
    whole = sums.whole
    if not math.isfinite(whole):
        return "no total: a factor is exactly zero, infinite or undefined"
    parts = []
    values = [getattr(sums, kind) for kind in KINDS]
    # A share of what partly cancels would be read as a part of the whole.
    shared = min(values) > -0.005 or max(values) < 0.005
    for kind in KINDS:
        value = getattr(sums, kind)
        if abs(value) >= 0.005:
            share = f" ({sums.fraction(kind):.0%})".replace("%", " %") if shared and kind == sums.largest else ""
            parts.append(f"{LABELS[kind]} {_signed(value)}{share}")
    return f"{_signed(whole)} decades from head to first layer: {', '.join(parts) or 'no kind of factor does anything'}"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _axes(
    figure: go.Figure, frame: pd.DataFrame, bars: pd.DataFrame, found: list[mk.Mark], part: Window, theme: str
) -> None:
    mk.add_strip(figure, found, theme)
    depth = axes.depth_axis(int(frame["upper"].max()), part.x)
    title = {"text": "Depth (from the head down to the first layer)"}
    figure.update_xaxes(**depth | {"range": depth["range"][::-1], "title": title})
    figure.update_yaxes(title={"text": "log<sub>10</sub> |dL/dz|"}, selector={"overlaying": None, "anchor": None})
    levels = bars[["start", "end"]].to_numpy(np.float64)
    if not np.isfinite(levels).any():
        figure.update_layout(yaxis=axes.NO_TICKS)
        style.add_note(figure, "no finite value to draw", theme, "y domain")
