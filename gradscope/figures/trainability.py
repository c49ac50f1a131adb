"""How deep a network learns: depth by weight variance, measured, with the depth scale of theory over it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from gradscope.errors import InvalidValueError
from gradscope.figures import axes, style, wording
from gradscope.figures.depth_scale import depth_scale_frame
from gradscope.figures.sweep_cells import config_value
from gradscope.figures.values import RunsLike, named
from gradscope.theory import ACTIVATIONS, DEPTH_SCALES

if TYPE_CHECKING:
    from gradscope.runs import Run

VALUES = ("test_accuracy", "accuracy")
PROGRESS = "progress"
LABELS = {"test_accuracy": "Accuracy, held out", "accuracy": "Accuracy", PROGRESS: "Share of the first loss overcome"}
COLUMNS = ("weight_var", "depth", "value", "runs", "run")


def trainability_frame(runs: RunsLike, value: str | None = None) -> pd.DataFrame:
    """Return one row per depth and weight variance of a sweep.

    Args:
        runs: Runs whose configuration holds ``depth`` and ``weight_var`` as numbers; others are left out.
        value: Name of a scalar, whose last value counts, or ``progress``: 1 - last loss / first loss. Without it,
            ``test_accuracy`` or ``accuracy`` where every run has it, else ``progress``.

    Returns:
        Columns weight_var, depth, value (median over the runs of the cell, NaN where none has one), runs (how many)
        and run (the name of one). ``frame.attrs`` holds ``value``, its name, and ``left_out``, how many runs.
    """
    listed = [(name, run, *_place(run)) for name, run in named(runs)]
    placed = [one for one in listed if all(math.isfinite(number) for number in one[2:])]
    chosen = value or _usual([run for _, run, *_ in placed])
    rows = [
        {"weight_var": variance, "depth": int(depth), "value": reached(run, chosen), "run": name}
        for name, run, depth, variance in placed
    ]
    table = pd.DataFrame(rows, columns=["weight_var", "depth", "value", "run"])
    cells = table.groupby(["depth", "weight_var"], as_index=False)
    frame = cells.agg(value=("value", "median"), runs=("run", "size"), run=("run", "first"))[list(COLUMNS)]
    frame.attrs = {"value": chosen, "left_out": len(listed) - len(placed)}
    return frame


def _place(run: Run) -> tuple[float, float]:
    found = (config_value(run.config.get(key)) for key in ("depth", "weight_var"))
    depth, variance = (math.nan if isinstance(one, str) else float(one) for one in found)
    return depth, variance


def _usual(runs: Sequence[Run]) -> str:
    known = [set(run.scalars["name"]) for run in runs]
    return next((name for name in VALUES if known and all(name in one for one in known)), PROGRESS)


def reached(run: Run, value: str) -> float:
    """Return the last value of a scalar, or of ``progress`` the share of the first loss that was overcome; else NaN."""
    rows = run.scalars
    numbers = rows.loc[rows["name"] == ("loss" if value == PROGRESS else value), "value"].to_numpy(np.float64)
    if not len(numbers):
        return math.nan
    return float(1.0 - numbers[-1] / numbers[0]) if value == PROGRESS else float(numbers[-1])


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
    shown = LABELS.get(frame.attrs["value"], frame.attrs["value"])
    if frame.empty:
        raise InvalidValueError("no run has numbers for 'depth' and 'weight_var' in its configuration")
    if frame["value"].isna().all():
        raise InvalidValueError(f"no run has a value of {frame.attrs['value']!r}")
    inside = [run for _, run in pairs if all(math.isfinite(number) for number in _place(run))]
    figure = style.empty_figure("How deep a network learns", "", theme)
    across, up = np.unique(frame["weight_var"]), np.unique(frame["depth"]).astype(np.float64)
    _add_cells(figure, frame, across, up, shown)
    setting, why = common_setting(inside) if theory else (None, "")
    notes = [", ".join([wording.label(shown), *_shared(inside)])]
    left_out = frame.attrs["left_out"]
    notes += [f"{left_out} {'run' if left_out == 1 else 'runs'} left out"] if left_out else []
    if setting is not None:
        activation, bias_var = setting
        notes += [f"{activation}, bias variance {wording.number(bias_var)}"]
        _add_scale(figure, activation, bias_var, edges(across)[[0, -1]], theme)
    lines = ["; ".join(notes), *([why] if why else [])]
    figure.update_layout(
        title_subtitle_text="<br>".join(lines),
        margin={"t": 46 + 18 * len(lines), "b": 84},
        xaxis={"title": {"text": "Weight variance (σ<sub>w</sub>², times fan in)"}, "showgrid": False},
        yaxis={"title": {"text": "Depth (hidden layers)"}, "showgrid": False},
    )
    figure.update_xaxes(range=edges(across)[[0, -1]].tolist())
    figure.update_yaxes(range=edges(up)[[0, -1]].tolist(), exponentformat="none")
    return figure


def _shared(runs: Iterable[Run]) -> Iterator[str]:
    """Return the data and the number of steps that all runs have in common."""
    configs = [run.config for run in runs]
    for key, unit in (("data", ""), ("steps", " steps"), ("width", " units wide")):
        found = {str(config.get(key, "")) for config in configs}
        if len(found) == 1 and found != {""}:
            yield wording.label(f"{found.pop()}{unit}", 24)


def edges(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the borders of cells around ascending places: midway between them, and as far beyond the ends.

    >>> edges(np.array([1.0, 2.0, 4.0])).tolist(), edges(np.array([3.0])).tolist()
    ([0.5, 1.5, 3.0, 5.0], [2.5, 3.5])
    """
    if len(places) == 1:
        return np.array([places[0] - 0.5, places[0] + 0.5])
    middle = (places[1:] + places[:-1]) / 2
    first, last = max(0.0, 2 * places[0] - middle[0]), 2 * places[-1] - middle[-1]
    return np.concatenate([[first], middle, [last]])


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
        colorbar=axes.colour_bar(wording.label(shown)),
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
    return (
        f"depth {depth:g}, weight variance {wording.number(variance)}<br>"
        f"{wording.label(shown)} {wording.number(value)}{several}"
    )


def common_setting(runs: Sequence[Run]) -> tuple[tuple[str, float] | None, str]:
    """Return activation and bias variance that all runs share, or None and why theory has no one line for them."""
    configs = [run.config for run in runs]
    if any(config.get("norm", "none") != "none" or config.get("residual") for config in configs):
        return None, "no depth scale is drawn: it is that of plain chains, without normalization and skips"
    found = {(str(config.get("activation", "?")), _bias_var(config)) for config in configs}
    activation, bias_var = next(iter(found)) if len(found) == 1 else ("?", math.nan)
    if activation == "?" or math.isnan(bias_var):
        return None, "no depth scale is drawn: the runs do not share one activation and one bias variance"
    if activation not in ACTIVATIONS:
        return None, f"no depth scale is drawn: theory knows no activation {wording.short(activation)!r}"
    return (activation, bias_var), ""


def _bias_var(config: dict[str, Any]) -> float:
    """Return the bias variance of a configuration; NaN where it is no number."""
    value = config_value(config.get("bias_var") or 0.0)
    return math.nan if isinstance(value, str) else float(value)


def _add_scale(figure: go.Figure, activation: str, bias_var: float, between: NDArray[np.float64], theme: str) -> None:
    """Draw xi_c and its multiple, black with a pale halo, for they cross bright and dark cells."""
    frame = depth_scale_frame(activation, bias_var, float(between[0]), float(between[1]))
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
