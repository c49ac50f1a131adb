"""What a notebook shows of a run, of runs and of a decay: plain HTML without scripts, legible on light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gradscope.errors import GradscopeError, RunFormatError
from gradscope.runs.decay import Decay

if TYPE_CHECKING:
    from gradscope.runs.collection import Runs
    from gradscope.runs.run import Run

SIGNAL = "output_grad_norm"
MOST_RUNS = 20
MOST_POINTS = 200
WIDTH, HEIGHT, MARGIN = 360, 96, 6
FIRST, LAST = "#0072B2", "#D55E00"


def of_decay(decay: Decay) -> str:
    """Return a decay as one sentence."""
    return f"<div>{_sentence(decay)}</div>"


def of_run(run: Run) -> str:
    """Return a run: its name, settings and decay, and the output gradient over depth at its first and last step."""
    facts = [
        ("status", run.status),
        ("layers", str(len(run.specs))),
        ("config", ", ".join(f"{key}={value}" for key, value in run.config.items()) or "none"),
        *_recorded(run),
    ]
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th><td style="text-align:left">{escape(value)}</td></tr>'
        for name, value in facts
    )
    return f"<div><b>Run {escape(run.name)}</b><table>{rows}</table>{_profiles(run)}</div>"


def of_runs(runs: Runs) -> str:
    """Return the first twenty rows of the table of runs, and how many there are."""
    table = runs.table()
    shown = table.head(MOST_RUNS).to_html(index=False, border=0, float_format="{:.4g}".format, na_rep="–")
    more = f", the first {MOST_RUNS} shown" if len(table) > MOST_RUNS else ""
    return f"<div><b>{len(runs)} runs in {escape(runs.path)}</b>{more}{shown if len(table) else ''}</div>"


def _sentence(decay: Decay) -> str:
    if not decay.layers:
        return "Decay: unknown, no layer was used"
    if math.isnan(decay.rate):
        return f"Decay: undefined over {decay.layers} layers (no norms, or norms that are zero or not finite)"
    interval = "" if math.isnan(decay.low) else f" (95 %: {decay.low:.3g} to {decay.high:.3g})"
    return (
        f"Decay: the output gradient changes by <b>{decay.rate:.3g}</b> per layer{interval} towards the input, "
        f"{decay.decades:+.2f} decades over {decay.layers} layers"
    )


def _recorded(run: Run) -> list[tuple[str, str]]:
    """Return how many steps were recorded and what the last loss was, of a run that can be read."""
    try:
        steps, scalars = run.steps(), run.scalars
    except RunFormatError as error:
        return [("cannot be read", str(error))]
    span = f"{len(steps)}, from {steps[0]} to {steps[-1]}" if steps else "none yet"
    losses = scalars.loc[scalars["name"] == "loss", "value"]
    return [("recorded steps", span), *([("loss", f"{losses.iloc[-1]:.4g}")] if len(losses) else [])]


def _profiles(run: Run) -> str:
    """Return decay and picture; empty where nothing of the output gradient was recorded."""
    try:
        steps = run.steps(SIGNAL)
        if not steps:
            return ""
        ends = list(dict.fromkeys([steps[0], steps[-1]]))
        profiles = [run.profile(SIGNAL, step) for step in ends]
        sentence = _sentence(run.decay(ends[0]))
    except GradscopeError:  # not recorded, or a part that cannot be read: said above
        return ""
    colours = (FIRST, LAST)
    keys = ", ".join(
        f'<span style="color:{colour}">&#9632;</span> step {step}' for step, colour in zip(ends, colours, strict=False)
    )
    picture = sparkline(zip(profiles, colours, strict=False))
    return f"<div>{sentence} at step {ends[0]}.</div>{picture}<div>output gradient over depth (log): {keys}</div>"


def sparkline(profiles: Iterable[tuple[pd.Series[float], str]]) -> str:
    """Return an SVG of profiles over depth on a common logarithmic axis; empty where nothing has a logarithm.

    Zeros, NaN and infinity leave a gap.
    """
    drawn = [(one.index.to_numpy(np.float64), _log(one), colour) for one, colour in profiles]
    heights = np.concatenate([logs[np.isfinite(logs)] for _, logs, _ in drawn])
    if not len(heights):
        return ""
    low, high = float(heights.min()), float(heights.max())
    left = min(float(depths.min()) for depths, _, _ in drawn)
    right = max(float(depths.max()) for depths, _, _ in drawn)
    lines = "".join(
        f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        for depths, logs, colour in drawn
        for points in _stretches(_scaled(depths, left, right, WIDTH), HEIGHT - _scaled(logs, low, high, HEIGHT))
    )
    label = (
        f'<text x="{WIDTH + 4}" y="12" font-size="10" fill="#888">{10.0**high:.0e}</text>'
        f'<text x="{WIDTH + 4}" y="{HEIGHT - 2}" font-size="10" fill="#888">{10.0**low:.0e}</text>'
    )
    frame = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#888" stroke-opacity="0.4"/>'
    size = f'width="{WIDTH + 50}" height="{HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">{frame}{lines}{label}</svg>'


def _log(profile: pd.Series[float]) -> NDArray[np.float64]:
    values = profile.to_numpy(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log10(values), np.float64)


def _scaled(values: NDArray[np.float64], low: float, high: float, size: float) -> NDArray[np.float64]:
    share = (values - low) / (high - low) if high > low else np.where(np.isnan(values), np.nan, 0.5)
    return np.asarray(MARGIN + share * (size - 2 * MARGIN), np.float64)


def _stretches(across: NDArray[np.float64], down: NDArray[np.float64]) -> Sequence[str]:
    """Return the points of each unbroken stretch of a line, at most `MOST_POINTS` in all."""
    every = max(1, len(across) // MOST_POINTS)
    across, down = across[::every], down[::every]
    whole = np.isfinite(down)
    starts = np.flatnonzero(np.diff(whole.astype(int), prepend=0) == 1)
    ends = np.flatnonzero(np.diff(whole.astype(int), append=0) == -1) + 1
    # A single point is drawn as a short dash.
    return [
        " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across[a:b], down[a:b], strict=True))
        + (f" {across[a] + 2:.1f},{down[a]:.1f}" if b - a == 1 else "")
        for a, b in zip(starts, ends, strict=True)
    ]
